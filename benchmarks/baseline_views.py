"""`velo …` with the eight views of the contract alone, as if the catalogue had no other: what the aims are counted by."""

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
    """Leave the other views out of the catalogue, for this process; whoever reads it must not have begun."""
    from velo.feature_repo.catalogue import families

    chosen = tuple(one for one in families.FAMILIES if one.view in CONTRACT)
    vars(families).update(FAMILIES=chosen, BY_VIEW={one.view: one for one in chosen})


if __name__ == "__main__":
    only_contract()
    from velo.cli import main

    main()
