"""What a stage declares in its file is what dvc.yaml says of it, and what its code uses."""

import ast

import pytest
import yaml

from tests.contract import repository

STAGES = sorted(repository.dvc_stages())
MACHINE_ONLY = "compute"  # where and how fast: no stage depends on it
READ_WITH = {"unfreeze.defaults": "unfreeze.phases"}  # the reader lays the one under the other


def _tree(name: str) -> ast.Module:
    return ast.parse((repository.ROOT / "stages" / f"{name}.py").read_text(encoding="utf-8"))


def _declared(name: str, constant: str) -> set[str]:
    return repository.declared(_tree(name), constant)


@pytest.mark.parametrize("name", STAGES)
def test_the_sections_of_a_stage_are_its_params_in_dvc_yaml(name: str) -> None:
    assert _declared(name, "SECTIONS") == repository.dvc_stages()[name].sections


@pytest.mark.parametrize("name", STAGES)
def test_the_inputs_of_a_stage_are_its_deps_in_dvc_yaml(name: str) -> None:
    stage = repository.dvc_stages()[name]
    assert _declared(name, "INPUTS") == stage.deps - stage.code


@pytest.mark.parametrize("name", STAGES)
def test_the_outs_of_a_stage_are_its_outs_and_metrics_in_dvc_yaml(name: str) -> None:
    assert _declared(name, "OUTS") == repository.dvc_stages()[name].outs


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_uses_the_sections_that_it_declares_and_no_others(name: str) -> None:
    declared = {section.partition(".${")[0] for section in repository.dvc_stages()[name].sections}
    used = {chain for chain in _chains(_tree(name)) if chain.split(".")[0] != MACHINE_ONLY}
    undeclared = sorted(chain for chain in used if not any(_within(chain, section) for section in declared))
    unused = sorted(
        section
        for section in declared
        if not any(_within(chain, own) for chain in used for own in (section, READ_WITH.get(section, section)))
    )
    assert not undeclared, f"stages/{name}.py uses params.{undeclared[0]} without declaring it"
    assert not unused, f"stages/{name}.py declares {unused} and uses none of it"


@pytest.mark.parametrize("name", STAGES)
def test_no_stage_runs_again_for_another_machine_or_another_gate(name: str) -> None:
    sections = {section.partition(".")[0] for section in repository.dvc_stages()[name].sections}
    assert not sections & {MACHINE_ONLY, "compare"}


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_never_hands_on_the_whole_tree_of_params(name: str) -> None:
    tree = _tree(name)
    rooted = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    names = [node for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id == "params"]
    bare = [node.lineno for node in names if isinstance(node.ctx, ast.Load) and id(node) not in rooted]
    assert not bare, f"stages/{name}.py: line {bare} passes params itself on; pass a section"


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_file_says_what_it_does_and_is_at_most_60_lines(name: str) -> None:
    text = (repository.ROOT / "stages" / f"{name}.py").read_text(encoding="utf-8")
    assert text.count("\n") <= 60
    assert ast.get_docstring(ast.parse(text))
    assert f"stages.{name}" in text, "the docstring names the command"


def test_outs_never_overlap() -> None:
    outs = sorted(out for stage in repository.dvc_stages().values() for out in stage.outs)
    assert len(outs) == len(set(outs))
    assert not [(a, b) for a in outs for b in outs if a != b and b.startswith(f"{a}/")]


def test_dvc_yaml_never_uses_what_loses_the_run_cache() -> None:
    text = (repository.ROOT / "dvc.yaml").read_text(encoding="utf-8")
    assert "persist" not in text
    for name, entry in yaml.safe_load(text)["stages"].items():
        outs = entry.get("do", entry).get("outs", [])
        assert all(isinstance(out, str) for out in outs), f"{name}: DVC keeps no run with an out outside its cache"


def _chains(tree: ast.Module) -> set[str]:
    """Every `a.b.c` that the code reads from params, without the shorter chains inside."""
    chains = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            text = ast.unparse(node).replace("load_params()", "params")
            if text.startswith("params.") and text.replace(".", "").replace("_", "").isalnum():
                chains.add(text.removeprefix("params."))
    return {chain for chain in chains if not any(other.startswith(f"{chain}.") for other in chains)}


def _within(chain: str, section: str) -> bool:
    return chain == section or chain.startswith(f"{section}.")
