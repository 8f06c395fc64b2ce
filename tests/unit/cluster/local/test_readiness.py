import pytest

from cluster.local.readiness import how_far, raise_if_hopeless, router_url
from cluster.report import ControllerReport, ModelReport, WorkerReport
from rhizome.errors import EngineFailed
from rhizome.fleet.models import ModelSpec
from rhizome.fleet.records import WorkerRecord, WorkerState
from rhizome.settings.tree import RouterSettings

MODEL = ModelSpec(name="m", source="demo:llama", workers=2)


def worker(number: int, state: WorkerState, detail: str = "") -> WorkerRecord:
    return WorkerRecord(
        worker_id=f"m-{number}",
        incarnation="a",
        model="m",
        url="http://127.0.0.1:1",
        state=state,
        detail=detail,
    )


def report(**workers: WorkerReport) -> ControllerReport:
    return ControllerReport(controller_id="c", at_wall_s=1.0, workers=workers)


def test_ready_workers_are_counted_and_the_others_explained() -> None:
    loading = how_far(
        [MODEL],
        [worker(1, WorkerState.READY), worker(2, WorkerState.LOADING, "loading weights")],
        None,
    )
    assert (loading.ready, loading.wanted) == (1, 2)
    assert loading.text == "m 1/2 (loading weights)"


def test_more_workers_than_wanted_do_not_stand_in_for_another_model() -> None:
    other = ModelSpec(name="other", source="demo:mixtral")
    loading = how_far([MODEL, other], [worker(n, WorkerState.READY) for n in range(5)], None)
    assert (loading.ready, loading.wanted) == (2, 3)
    assert loading.text == "m 5/2, other 0/1 (starting)"


def test_why_a_model_cannot_be_started_is_told() -> None:
    row = ModelReport(
        target=2,
        ready=0,
        min_workers=2,
        max_workers=2,
        scaling="",
        trouble="no node has a GPU",
    )
    seen = ControllerReport(controller_id="c", at_wall_s=1.0, models={"m": row})
    assert how_far([MODEL], [], seen).text == "m 0/2 (no node has a GPU)"


def test_a_worker_that_keeps_dying_ends_the_wait_with_its_cause() -> None:
    dying = WorkerReport(model="m", living=False, deaths=3, cause="no kernel image")
    with pytest.raises(EngineFailed, match="died 3 times: no kernel image"):
        raise_if_hopeless([], report(w=dying))


def test_one_death_is_no_reason_to_give_up() -> None:
    raise_if_hopeless([], report(w=WorkerReport(model="m", living=True, deaths=1)))


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8000"),
        ("0.0.0.0", "http://127.0.0.1:8000"),  # noqa: S104 - told apart, not bound
        ("::1", "http://[::1]:8000"),
    ],
)
def test_a_router_on_every_address_is_reached_by_loopback(host: str, url: str) -> None:
    assert router_url(RouterSettings(host=host)) == url
