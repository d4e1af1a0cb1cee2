"""The scripts that the book offers for download run as they stand, but for fewer steps."""

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

SCRIPTS = Path(__file__).parents[1] / "book/scripts"
STEPS = {"whole_gan": "steps = 4000", "whole_gan_ganlib": "until=4000"}


@pytest.mark.parametrize("name", STEPS)
def test_a_script_trains_and_writes_its_grid(name, tmp_path):
    source, long = (SCRIPTS / f"{name}.py").read_text(), STEPS[name]
    assert source.count(long) == 1
    (tmp_path / "short.py").write_text(source.replace(long, long.replace("4000", "5")))
    command = [sys.executable, "short.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert Image.open(tmp_path / "digits.png").size == (242, 242)


def test_they_are_as_short_as_their_page_says():
    lines = {name: (SCRIPTS / f"{name}.py").read_text().splitlines() for name in STEPS}
    assert len(lines["whole_gan"]) < 60
    readme = (SCRIPTS.parents[1] / "README.md").read_text()
    assert f"a whole GAN in {len(lines['whole_gan'])} lines" in readme
    assert len([line for line in lines["whole_gan_ganlib"] if line]) <= 20
