from __future__ import annotations

from pathlib import Path

import pytest

from rhizome.errors import SettingsError
from workers.standalone import read_or_make_key


def test_a_key_is_made_for_the_owner_only_and_found_again(tmp_path: Path) -> None:
    file = tmp_path / "keys" / "w"
    key = read_or_make_key(file)
    assert len(key) > 40
    assert file.stat().st_mode & 0o777 == 0o600
    assert read_or_make_key(file) == key


@pytest.mark.parametrize("text", ["", "short\n", "two words of more than sixteen", "ключ" * 10])
def test_a_file_that_holds_no_key_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "key"
    file.write_text(text)
    with pytest.raises(SettingsError, match="key file"):
        read_or_make_key(file)


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match="cannot write the key file"):
        read_or_make_key(tmp_path / "file" / "keys" / "key")
