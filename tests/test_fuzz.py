"""Some of the random cases of ``make fuzz``."""

import importlib.util
from pathlib import Path

import pytest

spec = importlib.util.spec_from_file_location("fuzz", Path(__file__).with_name("fuzz.py"))
fuzz = importlib.util.module_from_spec(spec)
spec.loader.exec_module(fuzz)


@pytest.mark.filterwarnings("ignore")
def test_budgets():
    assert fuzz.run(fuzz.budgets, 10**6, 500, 1) > 100


@pytest.mark.filterwarnings("ignore")
def test_files(tmp_path):
    through = fuzz.run(fuzz.Files(tmp_path), 10**6, 500, 1)
    assert 50 < through < 450


def test_a_failure_names_its_seed(capsys):
    with pytest.raises(ZeroDivisionError):
        fuzz.run(lambda seed: 1 // (seed - 3), 0, 9, 1)
    assert capsys.readouterr().err == "seed 3\n"
