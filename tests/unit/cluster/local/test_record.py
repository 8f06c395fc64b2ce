import os
from pathlib import Path

import pytest

from cluster.local.layout import ClusterFiles, write_private
from cluster.local.record import (
    ClusterRecord,
    ClusterState,
    Failure,
    Pid,
    cluster_lock,
    is_running,
    pid_of,
    read_record,
    write_record,
)
from rhizome.errors import ClusterError


@pytest.fixture
def files(tmp_path: Path) -> ClusterFiles:
    files = ClusterFiles.of(tmp_path, "test")
    files.make()
    return files


def test_a_record_is_read_as_it_was_written(files: ClusterFiles) -> None:
    record = ClusterRecord(
        name="test",
        state=ClusterState.FAILED,
        processes={"router": Pid(1, 2.0)},
        failure=Failure("broken", "mend it", 9),
    )
    write_record(files, record)
    assert read_record(files) == record


def test_no_record_and_a_torn_one_read_as_none(files: ClusterFiles) -> None:
    assert read_record(files) is None
    files.record.write_text('{"name": "te')
    assert read_record(files) is None


def test_the_lock_tells_whether_a_cluster_runs(files: ClusterFiles) -> None:
    assert not is_running(files)
    with cluster_lock(files):
        assert is_running(files)
    assert not is_running(files)


def test_a_second_supervisor_is_refused_with_the_first_ones_address(files: ClusterFiles) -> None:
    write_record(files, ClusterRecord(name="test", url="http://127.0.0.1:8000"))
    with (
        cluster_lock(files),
        pytest.raises(ClusterError, match=r"runs already at http://127\.0\.0\.1:8000") as caught,
        cluster_lock(files),
    ):
        pass
    assert "rhizome down --name test" in caught.value.advice


def test_a_pid_that_was_given_to_another_process_is_not_taken_for_it() -> None:
    own = pid_of(os.getpid())
    assert own is not None
    assert own.process() is not None
    assert Pid(own.pid, own.started_wall_s - 3600.0).process() is None


def test_private_files_are_for_their_owner_only(files: ClusterFiles) -> None:
    write_private(files.settings, "secret")
    assert files.settings.stat().st_mode & 0o777 == 0o600
    assert files.root.stat().st_mode & 0o777 == 0o700


def test_ray_gets_a_short_directory_when_the_clusters_own_is_too_long(tmp_path: Path) -> None:
    short = ClusterFiles(Path("/home/me/rz"))
    assert short.ray_directory() == Path("/home/me/rz/ray")
    deep = ClusterFiles(tmp_path / ("x" * 100)).ray_directory()
    assert len(str(deep)) < 107 - 60
    deep.rmdir()
