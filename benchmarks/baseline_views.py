"""Run `velo …` with only the eight views of the contract in the catalogue; the aims refer to these."""

from typing import Final

CONTRACT: Final = (
    "trainer_velocity",
    "jockey_velocity",
    "partnership_velocity",
    "horse_form",
    "horse_course",
    "horse_distance",
    "horse_going",
    "draw_bias",
)


def only_contract() -> None:
    """Remove the other views from this process's catalogue. Call it before any module reads the catalogue."""
    from velo.feature_repo.catalogue import families

    chosen = tuple(family for family in families.FAMILIES if family.view in CONTRACT)
    vars(families).update(FAMILIES=chosen, BY_VIEW={family.view: family for family in chosen})


if __name__ == "__main__":
    only_contract()
    from velo.cli import main

    main()
