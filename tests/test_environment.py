"""environment.yml and pyproject.toml name the same packages, and these are all that is needed."""

import tomllib
from importlib.metadata import version

import notebook_env
import pytest
import yaml
from packaging.requirements import Requirement

COURSE = {
    *("torch", "numpy", "safetensors", "tiktoken", "tqdm", "pooch", "transformers", "accelerate"),
    *("jupyterlab", "ipywidgets", "matplotlib"),
}
TESTS = {
    *("nbval", "pytest", "pytest-xdist", "hypothesis", "ruff", "playwright", "pyyaml"),
    *("seqeval", "torchmetrics"),
}


@pytest.fixture(scope="module")
def project():
    return tomllib.loads((notebook_env.ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def conda():
    return yaml.safe_load((notebook_env.ROOT / "environment.yml").read_text())["dependencies"]


def names(requirements):
    return {Requirement(text).name for text in requirements}


def test_pyproject_lists_the_packages_of_the_course(project):
    assert names(project["dependencies"]) == COURSE
    assert names(project["optional-dependencies"]["test"]) == TESTS


def test_peers_of_the_benchmark_are_no_part_of_the_course(project):
    assert names(project["optional-dependencies"]["bench"]) == {"x-transformers"}
    assert set(project["optional-dependencies"]) == {"test", "bench", "book"}


def test_environment_yml_lists_the_same_with_the_same_bounds(project, conda):
    pip = next(entry["pip"] for entry in conda if isinstance(entry, dict))
    wanted = {*project["dependencies"], *project["optional-dependencies"]["test"], "-e ."}
    assert set(pip) == wanted
    assert f"python{project['requires-python']}" in conda


def test_the_environment_in_use_satisfies_them(project):
    for text in project["dependencies"] + project["optional-dependencies"]["test"]:
        wanted = Requirement(text)
        assert wanted.specifier.contains(version(wanted.name), prereleases=True), text
