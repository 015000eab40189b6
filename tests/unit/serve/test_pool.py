"""The queue of images: its bound, its deadline, and workers that cannot be started."""

from __future__ import annotations

import asyncio
import errno
import sys
from typing import Any

import psutil
import pytest

from segops.serve import pool as pools
from segops.serve import process
from segops.serve.errors import RequestError
from segops.serve.pool import Limits, Pool, Source

pytestmark = pytest.mark.anyio
IMAGE: tuple[dict[str, Any], bytes] = ({"do": "predict"}, b"image")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def waiting_pool(**limits: Any) -> Pool:
    """A pool that serves a model and has no worker yet."""
    pool = Pool("none", ("cpu",), Limits(**limits), None)
    pool.models = {"main": Source("nowhere", "digest", {})}
    return pool


async def test_a_request_waits_as_a_whole_or_not_at_all() -> None:
    pool = waiting_pool(queue=4)
    pool.put([IMAGE] * 3)
    for count, status in ((2, 429), (5, 413)):
        with pytest.raises(RequestError) as caught:
            pool.put([IMAGE] * count)
        assert (caught.value.status, pool.waiting) == (status, 3)
    pool.put([IMAGE])
    assert pool.waiting == 4


async def test_an_image_whose_client_waits_no_more_takes_no_place() -> None:
    pool = waiting_pool(queue=2, deadline=0.01)
    given_up, begun = pool.put([IMAGE] * 2)
    begun.deadline += 60
    with pytest.raises(RequestError, match="not ready in time"):
        await pool.answer(given_up)
    assert (pool.waiting, given_up.parts) == (1, [])
    assert await pool.next_job() is begun
    assert pool.waiting == 0
    begun.fail(504, "late")
    with pytest.raises(RequestError, match="late"):
        await pool.answer(begun)
    assert begun.parts == [b"image"]  # a worker reads them
    pool.put_back(begun)
    assert pool.waiting == 0
    pool.put([IMAGE] * 2)
    assert pool.waiting == 2


async def test_an_image_that_would_be_late_is_not_begun() -> None:
    pool = waiting_pool(deadline=10.0)
    late, timely = pool.put([IMAGE] * 2)
    late.deadline -= 8
    pool.took(5.0)
    pool.took(3.0)
    assert await pool.next_job() is timely
    with pytest.raises(RequestError, match="not ready in time"):
        await pool.answer(late)


async def test_a_new_image_is_begun_however_long_the_last_one_took() -> None:
    pool = waiting_pool(deadline=10.0)
    pool.took(10.0)
    (job,) = pool.put([IMAGE])
    assert await pool.next_job() is job


async def test_a_machine_that_starts_no_process_is_asked_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pool, real, calls = waiting_pool(), process.start, 0

    async def failing_once(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise OSError(errno.EMFILE, "Too many open files")
        return await real(*arguments, **options)

    monkeypatch.setattr(process, "start", failing_once)
    monkeypatch.setattr(pools, "RETRY_SECONDS", (0.0,))
    worker = await pool.started({}, "cpu")
    await worker.end(at_once=True)
    assert calls == 2
    assert "Too many open files" in caplog.text


async def test_a_worker_ends_with_the_process_that_started_it() -> None:
    """It ends though it waits for nothing of that process."""
    script = (
        "import asyncio, os, sys\n"
        "from segops.serve import process\n"
        "async def main():\n"
        "    child = await process.start('http.server', '--bind', '127.0.0.1', '0')\n"
        "    print(child.pid, flush=True)\n"
        "    os.kill(os.getpid(), 9)\n"
        "asyncio.run(main())\n"
    )
    done = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, stdout=asyncio.subprocess.PIPE
    )
    assert done.stdout is not None
    pid = int(await done.stdout.readline())
    await done.wait()
    try:
        child = psutil.Process(pid)
    except psutil.NoSuchProcess:
        return
    assert not psutil.wait_procs([child], timeout=20)[1]
