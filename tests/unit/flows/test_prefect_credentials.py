"""Where the credentials of a Prefect server come from, and where they are kept."""

from __future__ import annotations

import multiprocessing
import stat
from pathlib import Path

import pytest
from prefect import settings
from prefect.settings import PREFECT_HOME, temporary_settings

from flows.credentials import credentials, whereabouts
from segops.runtime.errors import SegopsError


def test_they_are_made_once_and_kept_for_their_owner_alone(tmp_path: Path) -> None:
    with temporary_settings({PREFECT_HOME: tmp_path / "home"}):
        made = credentials()
        assert credentials() == made
        kept = tmp_path / "home" / "segops-auth"
        assert whereabouts() == f"the line that `cat {kept}` shows"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert kept.read_text() == made + "\n"
    assert len(made.partition(":")[2]) >= 43
    assert [path.name for path in kept.parent.iterdir()] == ["segops-auth"]


def _make(home: Path) -> str:
    with temporary_settings({PREFECT_HOME: home}):
        return credentials()


def test_processes_that_start_at_once_agree(tmp_path: Path) -> None:
    with multiprocessing.get_context("fork").Pool(4) as pool:
        assert len(set(pool.map(_make, [tmp_path / "home"] * 16))) == 1


def test_a_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    with temporary_settings({PREFECT_HOME: tmp_path}):
        made = credentials()
        assert credentials() == made
        kept = tmp_path / "segops-auth"
        kept.chmod(0o640)
        with pytest.raises(SegopsError, match=r"segops-auth: others can read"):
            credentials()
        kept.chmod(0o600)
        kept.write_text("")
        with pytest.raises(SegopsError, match="holds no credentials"):
            credentials()
        kept.unlink()
        elsewhere = tmp_path / "elsewhere"
        elsewhere.write_text(made)
        kept.symlink_to(elsewhere)
        with pytest.raises(SegopsError, match="segops-auth"):
            credentials()


@pytest.mark.parametrize("name", ["PREFECT_SERVER_API_AUTH_STRING", "PREFECT_API_AUTH_STRING"])
def test_the_users_own_credentials_are_taken(tmp_path: Path, name: str) -> None:
    setting = getattr(settings, name)
    with temporary_settings({PREFECT_HOME: tmp_path, setting: "me:my own"}):
        assert credentials() == "me:my own"
    assert not (tmp_path / "segops-auth").exists()
    with (
        temporary_settings({setting: "no colon"}),
        pytest.raises(SegopsError, match=f"{name}: expected NAME:PASSWORD"),
    ):
        credentials()
