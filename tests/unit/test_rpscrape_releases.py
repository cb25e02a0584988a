"""Files of rpscrape's older releases give what today's gives."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from velo.settings import Settings
from velo.storage.store import Store
from velo.streams.importers.sources.raceform import read_raceform

OLDEST = 'date,course,time,race_name,class,band,distance,going,pos,draw,btn,name,sp,"dec""age",weight,gear,fin_time'
RELEASES = {
    "2018": (
        f"{OLDEST},jockey,trainer,or,ts,rpr,prize,sire,dam,damsire,comment",
        (
            "{date},{course},{off},{race_name},Class 2,4yo+,1m2f,Good To Firm,{pos},2,{btn},{horse},2/1,3.00,4,9-3,t,2:04.61,"
            "A Rider,B Trainer,92,80,101,1000,S,D,DS,c"
        ),
    ),
    "2019": (
        (
            "date,course,time,race_name,class,band,dist(f),dist(m),going,pos,draw,btn,horse_name,sp,dec,age,weight,lbs,gear,"
            "fin_time,jockey,trainer,or,ts,rpr,prize(£),sire,dam,damsire,comment"
        ),
        (
            "{date},{course},{off},{race_name},Class 2,4yo+,10,2000,Good To Firm,{pos},2,{btn},{horse},2/1,3.00,4,9-3,129,t,"
            "2:04.61,A Rider,B Trainer,92,80,101,1000,S,D,DS,c"
        ),
    ),
    "2020": (
        (
            "Date,Course,Off,Name,Type,Class,Pattern,Rating_Band,Dist,Dist_Y,Dist_M,Dist_F,Going,Num,Pos,Ran,Draw,Btn,Ovr_Btn,"
            "Horse,SP,Dec,Age,Sex,Wgt,Lbs,HG,Time,Jockey,Trainer,OR,RPR,TS,Prize"
        ),
        (
            "{date},{course},{off},{race_name},Flat,Class 2,,,1m2f,2200,2012,10f,Good To Firm,1,{pos},2,2,{btn},{btn},{horse},"
            "2/1,3.00,4,G,9-3,129,t,2:4.61,A Rider,B Trainer,92,101,80,1000"
        ),
    ),
}


@pytest.mark.parametrize("day", ["2018-11-10", "10 Nov 2018", "2018/11/10", "Sat 10th November 2018"])
@pytest.mark.parametrize("release", RELEASES)
def test_a_file_of_an_older_release_reads_as_todays_does(release: str, day: str, tmp_path: Path) -> None:
    """The release of 2018 names the horse `name` and its header lacks a comma; of 2020 `Name` is the race."""
    header, row = RELEASES[release]
    cells = {"date": day, "course": "kempton-aw", "off": "1:00", "race_name": "Alpha Handicap"}
    rows = [
        row.format(**cells, pos=pos, btn=btn, horse=horse)
        for pos, btn, horse in ((1, "0", "Alpha (GB)"), (2, "2", "Beta (IRE)"))
    ]
    path = tmp_path / "results.csv"
    path.write_text("\n".join((header, *rows)) + "\n", encoding="utf-8")
    read = read_raceform([path], Store.open(Settings(home=tmp_path / "home")))
    assert not read.warnings
    (result,) = read.messages
    race, first = result.race, result.runners[0]
    assert (result.race_id, race.race_name, race.handicap) == ("2018-11-10 kempton-aw 13:00", "Alpha Handicap", True)
    assert (race.off_time, race.surface, race.country) == (datetime(2018, 11, 10, 13, tzinfo=UTC), "AW", "GB")
    assert (race.race_class, race.going, race.distance_m) == (2, "Good To Firm", 2012)
    assert (first.horse_id, first.jockey_id, first.trainer_id) == ("alpha (gb)", "a rider", "b trainer")
    assert (first.weight_lbs, first.headgear, first.finish_time_s, first.age) == (129, "t", 124.61, 4)
    assert (first.sp_decimal, first.official_rating, first.position) == (3.0, 92, 1)
    behind = result.runners[1].beaten_lengths
    assert behind == (2.0 if release == "2020" else None), "btn is no distance behind the winner in the oldest"


def test_where_no_horse_of_a_file_says_its_country_those_taken_as_british_are_counted(tmp_path: Path) -> None:
    """The releases of 2018 and 2019 leave countries out of all names; the paper leaves out Britain alone."""
    header, row = RELEASES["2018"]
    cells = {"date": "2018-11-10", "course": "ascot", "off": "1:00", "race_name": "Alpha Stakes"}
    paths = []
    eight = [f"Alpha {number}" for number in range(8)]
    for name, horses in (("bare", eight), ("mixed", [*eight[1:], "Delta (IRE)"]), ("few", eight[:2])):
        rows = [
            row.format(**cells | {"course": name}, pos=pos, btn=pos, horse=horse) for pos, horse in enumerate(horses, 1)
        ]
        paths.append(tmp_path / f"{name}.csv")
        paths[-1].write_text("\n".join((header, *rows)) + "\n", encoding="utf-8")
    read = read_raceform(paths, Store.open(Settings(home=tmp_path / "home")))
    assert read.warnings["horse of a file without countries, taken as GB"] == 8
