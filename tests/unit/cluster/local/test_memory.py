from pathlib import Path

import pytest

from cluster.local.memory import available_bytes, kv_cache_bytes, require_memory, worker_bytes
from rhizome.errors import NotEnoughMemory
from rhizome.fleet.models import ModelSpec, Parallelism

GIB = 2**30


def spec(workers: int = 1, **fields: object) -> ModelSpec:
    return ModelSpec.model_validate(
        {"name": "m", "source": "demo:llama", "workers": workers, **fields}
    )


@pytest.mark.parametrize(("text", "size"), [("200M", 200 * 2**20), ("1G", GIB), ("512", 512)])
def test_a_cache_size_is_read_with_its_unit(text: str, size: int) -> None:
    assert kv_cache_bytes(spec(kv_cache_memory=text)) == size


def test_workers_that_fit_are_let_through() -> None:
    require_memory([spec(2, kv_cache_memory="200M")], {}, 8 * GIB)


def test_too_many_workers_are_refused_with_the_sum_and_a_way_out() -> None:
    with pytest.raises(NotEnoughMemory) as caught:
        require_memory([spec(100, kv_cache_memory="200M")], {}, 8 * GIB)
    assert "100 x m" in caught.value.message
    assert "8.0 GiB is free" in caught.value.message
    assert "--workers" in caught.value.advice


def test_no_workers_need_only_the_cluster_itself() -> None:
    require_memory([spec(0)], {}, 2 * GIB)


def test_weights_count_on_cpu_and_not_on_a_gpu(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"0" * 5000)
    on_cpu = worker_bytes(spec(), tmp_path) - worker_bytes(spec(), None)
    assert on_cpu == 5000
    gpu = spec(device="gpu")
    assert worker_bytes(gpu, tmp_path) == worker_bytes(gpu, None)


def test_each_rank_has_a_cache_of_its_own() -> None:
    one = spec(kv_cache_memory="1G")
    two = spec(kv_cache_memory="1G", parallel=Parallelism(tensor=2))
    assert worker_bytes(two, None) - worker_bytes(one, None) > GIB


def test_this_machine_has_some_memory() -> None:
    assert available_bytes() > 0
