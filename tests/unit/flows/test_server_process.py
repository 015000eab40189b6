"""What the process of a Prefect server sets up."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import sqlalchemy
from prefect.server.database.configurations import AioSqliteConfiguration

from flows import server_process


def test_a_transaction_that_reads_first_waits_for_another_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_prefect_has_it = AioSqliteConfiguration.begin_transaction
    monkeypatch.setattr(AioSqliteConfiguration, "begin_transaction", as_prefect_has_it)
    database = f"sqlite+aiosqlite:///{tmp_path}/one.db"
    with pytest.raises(sqlalchemy.exc.OperationalError, match="database is locked"):
        asyncio.run(two_count_up(AioSqliteConfiguration(database)))
    server_process._let_writers_wait()
    database = f"sqlite+aiosqlite:///{tmp_path}/two.db"
    assert asyncio.run(two_count_up(AioSqliteConfiguration(database))) == 2


async def two_count_up(database: AioSqliteConfiguration) -> int:
    """Let two transactions read a number and write the next one, both at the same time."""
    has_read = asyncio.Event()

    async def count_up(pause: float) -> None:
        async with (
            await database.session(engine) as session,
            database.begin_transaction(session),
        ):
            value = await session.scalar(sqlalchemy.text("SELECT value FROM numbers"))
            has_read.set()
            await asyncio.sleep(pause)
            await session.execute(sqlalchemy.text(f"UPDATE numbers SET value = {value} + 1"))

    engine = await database.engine()
    try:
        async with engine.begin() as connection:
            await connection.execute(sqlalchemy.text("CREATE TABLE numbers AS SELECT 0 AS value"))
        slow = asyncio.create_task(count_up(pause=0.5))
        await has_read.wait()
        await count_up(pause=0.0)
        await slow
        async with engine.connect() as connection:
            found = await connection.scalar(sqlalchemy.text("SELECT value FROM numbers"))
        assert isinstance(found, int)
        return found
    finally:
        await engine.dispose()
