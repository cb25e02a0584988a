"""`velo features new` writes features that its own test proves; `velo features test` says what is wrong with others."""

import json
from pathlib import Path

import pytest

from tests.support.cli import velo
from velo.errors import UserError
from velo.feature_repo.catalogue.own_example import write_example
from velo.testing import run_file


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The example's test, with its module found on the path for this test alone."""
    monkeypatch.syspath_prepend(str(tmp_path))
    write_example(tmp_path, "features_of_this_test")
    return tmp_path / "test_features_of_this_test.py"


def test_the_example_passes_its_own_test(written: Path, tmp_path: Path) -> None:
    done = velo("features", "test", written, "--json", home=tmp_path / "home")
    assert done.code == 0
    assert done.document == {
        "test_an_amended_result_takes_the_trainers_win_back": "ok",
        "test_a_sectional_that_is_no_number_is_unknown": "ok",
    }


def test_a_wrong_expectation_exits_1_and_shows_the_values(written: Path, tmp_path: Path) -> None:
    written.write_text(written.read_text().replace('"sectional_ewma": 33.5', '"sectional_ewma": 34.5'))
    done = velo("features", "test", written, "--json", home=tmp_path / "home")
    assert done.code == 1
    said = json.loads(done.out)["test_a_sectional_that_is_no_number_is_unknown"].splitlines()
    assert said[0] == "expected 34.5"
    assert said[2] == "  SQL 33.5, stream 33.5, brute force 33.5"


def test_a_test_that_raises_is_wrong_and_the_others_still_run(tmp_path: Path) -> None:
    file = tmp_path / "test_mixed.py"
    file.write_text("def test_a():\n    {}['speed']\n\ndef test_b():\n    assert 1 == 2\n\ndef test_c():\n    pass\n")
    assert run_file(file) == {"test_a": "KeyError: 'speed'", "test_b": "an assertion failed", "test_c": "ok"}


def test_nothing_is_overwritten_and_velo_toml_names_the_module(written: Path, tmp_path: Path) -> None:
    assert (tmp_path / "velo.toml").read_text() == '[features]\nmodules = ["features_of_this_test"]\n'
    with pytest.raises(UserError, match=r"features_of_this_test\.py exists already: choose another name"):
        write_example(tmp_path, "features_of_this_test")
    with pytest.raises(UserError, match=r'velo\.toml exists already: add "others" to its features\.modules first'):
        write_example(tmp_path, "others")
    assert not (tmp_path / "others.py").exists()
    with pytest.raises(UserError, match=r"'My features' cannot be a module's name"):
        write_example(tmp_path, "My features")


def test_a_file_without_tests_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.py").write_text("")
    with pytest.raises(UserError, match=r"has no function test_…: write one"):
        run_file(tmp_path / "empty.py")
    with pytest.raises(UserError, match=r"is not a file: name a file of tests"):
        run_file(tmp_path / "none.py")


def test_entities_and_out_are_both_needed(tmp_path: Path) -> None:
    velo("features", home=tmp_path).told("--entities is missing: name a Parquet or CSV file")
