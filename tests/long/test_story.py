"""The story of a team, told to its end."""

from pathlib import Path

from tests.long import team as story


def test_two_clones_trials_ci_a_merge_a_version_and_another_project_run_no_stage_twice(tmp_path: Path) -> None:
    with story.team(tmp_path) as found:
        story.tell(found)
    assert len(found.stages()) > 30
    assert found.repeated() == []
