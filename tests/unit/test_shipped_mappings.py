"""Each shipped mapping, on a file made up in the source's true form: every value worked out by hand, every row accounted for."""

import json
import zipfile
from collections.abc import Mapping
from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from velo.racing.messages import Result, Runner
from velo.settings import Settings
from velo.storage.store import Store
from velo.streams.importers import registry
from velo.streams.importers.importer import CardsImporter, ResultsImporter
from velo.streams.importers.results import Parsed


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(Settings(home=tmp_path / "home"))


def read(name: str, store: Store, files: Mapping[str, str]) -> Parsed:
    """Read files by a mapping; every row is in an accepted race or in a dead letter."""
    paths = []
    for file, text in files.items():
        path = store.home.root.parent / file
        path.write_text(text, encoding="utf-8")
        paths.append(path)
    importer = registry.importer(name)
    assert isinstance(importer, ResultsImporter)
    parsed = importer.read(paths, store)
    accounted = sum(len(rows) for rows in parsed.rows_of) + sum(len(letter.rows) for letter in parsed.refused)
    assert parsed.rows == accounted
    return parsed


def races(parsed: Parsed) -> dict[str, Result]:
    return {result.race_id: result for result in parsed.messages}


def runners(result: Result) -> dict[str, Runner]:
    return {runner.horse_id: runner for runner in result.runners}


def finishes(result: Result) -> dict[str, tuple[str | None, int | None]]:
    return {runner.horse_id: (runner.status, runner.position) for runner in result.runners}


HK_RACES = """race_id,date,venue,race_no,config,surface,distance,going,horse_ratings,prize,race_class,sec_time1,time1
1,2005-03-06,ST,2,A+3,0,1200,GOOD TO FIRM,60-40,485000.0,4,13.5,13.5
2,2005-03-09,HV,1,C,0,1650,YIELDING,,900000.0,11,27.9,27.9
3,2005-03-12,ST,1,AWT,1,1200,WET FAST,40-20,300000.0,5,13.6,13.6
9,2005-03-12,ST,2,AWT,1,1200,WET FAST,40-20,300000.0,5,13.6,13.6
"""
HK_RUNS = """race_id,horse_no,horse_id,result,won,lengths_behind,horse_age,horse_country,horse_type,horse_rating,horse_gear,declared_weight,actual_weight,draw,position_sec1,finish_time,win_odds,place_odds,trainer_id,jockey_id
1,1,3917,1,1.0,0.0,3,AUS,Gelding,60,--,1020.0,133,7,1,69.87,3.4,1.5,118,2
1,2,2157,2,0.0,1.25,4,NZ,Gelding,58,TT/B,980.0,127,12,2,70.07,16.0,4.1,164,57
1,3,858,2,0.0,1.25,4,NZ,Gelding,55,--,1082.0,127,1,3,70.07,5.2,,137,18
2,1,3917,1,1.0,0.0,3,AUS,Gelding,66,--,1011.0,126,3,1,101.2,2.2,1.1,118,2
2,2,1853,2,0.0,6.75,5,GB,Gelding,64,V,1121.0,120,4,2,102.3,1.0,1.6,80,59
3,1,2796,1,1.0,0.0,3,SAF,Gelding,heavy,--,1105.0,128,8,1,70.1,9.9,3.1,9,154
4,1,911,1,1.0,0.0,3,GB,Mare,60,--,1062.0,115,13,1,70.2,12.0,2.2,47,75
"""


def test_kaggles_hong_kong_pair_is_joined_and_read(store: Store) -> None:
    """A dead heat for second; a group race has no class; odds of 1 are none; a bad rating costs its race alone; a race is missing."""
    parsed = read("kaggle-hk", store, {"runs.csv": HK_RUNS, "races.csv": HK_RACES})
    found = races(parsed)
    assert set(found) == {"1", "2"}
    race, horses = found["1"].race, runners(found["1"])
    assert (race.race_date, race.race_no, race.course, race.country) == (date(2005, 3, 6), 2, "Sha Tin", "HK")
    assert (race.surface, race.distance_m, race.going) == ("Turf", 1200.0, "GOOD TO FIRM")
    assert (race.race_class, race.rating_band, race.course_config) == (4, "60-40", "A+3")
    assert race.off_time == datetime(2005, 3, 6, 13, 30, tzinfo=UTC), (
        "the files have no offs: race 2 is assumed half past one"
    )
    assert finishes(found["1"]) == {"3917": ("FINISHED", 1), "2157": ("FINISHED", 2), "858": ("FINISHED", 2)}
    second = horses["2157"]
    assert (second.weight_lbs, second.body_weight_lbs, second.draw, second.runner_no) == (127.0, 980.0, 12, 2)
    assert (second.beaten_lengths, second.finish_time_s, second.sp_decimal) == (1.25, 70.07, 16.0)
    assert (second.jockey_id, second.trainer_id, second.official_rating, second.headgear) == ("57", "164", 58, "TT/B")
    assert horses["3917"].headgear is None
    assert (found["2"].race.race_class, found["2"].race.course) == (None, "Happy Valley")
    assert runners(found["2"])["1853"].sp_decimal is None
    refused = {letter.race_id: letter.reason for letter in parsed.refused}
    assert refused == {"3": "bad value", "4": "no race_date"}
    assert parsed.warnings["race without runners in the other file, left out"] == 1


UK_RACES = """rid,course,time,date,title,rclass,band,ages,distance,condition,hurdles,prizes,winningTime,prize,metric,countryCode,ncond,class
100,Thurles (IRE),01:15,97/01/09,Alpha Handicap Hurdle (Div 1),,0-95,5yo+,2m1f,Good To Soft,9 hurdles,[],277.2,,3419.0,IE,1,0
101,Ascot,03:40,97/06/19,Beta Stakes (Class 2),Class 2,,3yo,7½f,Good To Firm,,[],91.2,,1508.0,GB,1,2
102,Kempton (AW),07:20,17/11/08,Gamma Nursery,Class 5,0-75,2yo,6f,Standard,,[],71.9,,1207.0,GB,1,5
"""
UK_HORSES = """rid,horseName,age,saddle,decimalPrice,isFav,trainerName,jockeyName,position,positionL,dist,weightSt,weightLb,overWeight,outHandicap,headGear,RPR,TR,OR,father,mother,gfather,runners,margin,weight,res_win,res_place
100,Alpha One(IRE),6,1,0.3333333333333333,1,A Trainer,A Rider,1,,,11,7,,,b,110,80,105,S,D,G,3,1.1,73,1,1
100,Beta Two,5,2,0.09090909090909091,0,B Trainer,B Rider,2,1½,1½,10,12,,,,100,70,95,S,D,G,3,1.1,69,0,1
100,Gamma Three,7,3,0.01,0,C Trainer,C Rider,40,,,10,0,,,,,,,S,D,G,3,1.1,63,0,0
101,Delta,3,4,0.5,1,D Trainer,D Rider,1,,,8,11,,,,101,90,99,S,D,G,2,1.2,56,1,1
101,Epsilon,3,5,0,0,E Trainer,E Rider,2,nk,nk,8,11,,,,100,88,98,S,D,G,2,1.2,56,0,0
102,Zeta,2,1,0.25,1,F Trainer,F Rider,1,,,9,15,,,,70,50,65,S,D,G,1,1.0,60,1,1
"""


def test_kaggles_british_and_irish_pair_is_joined_and_read(store: Store) -> None:
    """The clock has twelve hours; odds are probabilities; 40 did not finish; fifteen pounds of a stone cost their race."""
    parsed = read("kaggle-uk-ire", store, {"races_1997.csv": UK_RACES, "horses_1997.csv": UK_HORSES})
    found = races(parsed)
    race, horses = found["100"].race, runners(found["100"])
    assert race.off_time == datetime(1997, 1, 9, 13, 15, tzinfo=UTC)
    assert (race.race_date, race.course, race.country) == (date(1997, 1, 9), "Thurles (IRE)", "IRE")
    assert (race.race_class, race.rating_band, race.handicap, race.race_type) == (None, "0-95", True, "Hurdle")
    assert race.distance_m == 3420, "2m1f is 3740 yards of 0.9144 m"
    assert (race.going, race.surface) == ("Good To Soft", "Turf")
    first, second = horses["alpha one(ire)"], horses["beta two"]
    assert (first.weight_lbs, first.sp_decimal, first.age, first.headgear, first.official_rating) == (
        161.0,
        3.0,
        6,
        "b",
        105,
    )
    assert (second.weight_lbs, second.sp_decimal, second.beaten_lengths) == (152.0, 11.0, 1.5)
    assert finishes(found["100"])["gamma three"] == ("DNF", None)
    assert horses["gamma three"].sp_decimal == 100.0
    flat = found["101"].race
    assert flat.off_time == datetime(1997, 6, 19, 14, 40, tzinfo=UTC), "twenty to four of British summer time"
    assert (flat.race_class, flat.distance_m, flat.handicap, flat.race_type) == (2, 1509, False, None)
    assert (runners(found["101"])["epsilon"].beaten_lengths, runners(found["101"])["epsilon"].sp_decimal) == (0.3, None)
    assert [(letter.race_id, letter.reason) for letter in parsed.refused] == [("102", "bad value")]


def api_runner(number: int, horse: str, position: str, **fields: str) -> dict[str, str]:
    return {
        "horse_id": f"hrs_{number}", "horse": horse, "sp": "9/4", "sp_dec": "3.25", "number": str(number), "position": position,
        "draw": "8", "btn": "0", "ovr_btn": "0", "age": "5", "sex": "M", "weight": "8-10", "weight_lbs": "122", "headgear": "p",
        "time": "1:43.25", "or": "47", "rpr": "57", "tsr": "2", "prize": "", "jockey": "A Rider", "jockey_claim_lbs": "0",
        "jockey_id": "jky_1", "trainer": "B Trainer", "trainer_id": "trn_1", "owner": "O", "comment": "Held up",
    } | fields  # fmt: skip


API_RACE = {
    "race_id": "rac_1", "date": "2025-10-07", "region": "GB", "course": "Southwell (AW)", "course_id": "crs_1", "off": "8:30",
    "off_dt": "2025-10-07T20:30:00+01:00", "race_name": "Alpha Handicap", "type": "Flat", "class": "Class 6", "pattern": "",
    "rating_band": "0-60", "age_band": "3yo+", "sex_rest": "", "dist": "1m", "dist_y": "1773", "dist_m": "1621", "dist_f": "8f",
    "going": "Standard", "surface": "AW", "jumps": "", "non_runners": "",
}  # fmt: skip


def test_results_of_the_racing_api_are_read_from_their_nested_lists(store: Store) -> None:
    results = [
            API_RACE
            | {
                "runners": [
                    api_runner(1, "Alpha (IRE)", "1"),
                    api_runner(2, "Beta (GB)", "2", ovr_btn="0.05", btn="0.05", sp_dec="-", **{"or": "–"}),
                    api_runner(3, "Gamma (FR)", "PU", ovr_btn="-", time="-", draw=""),
                    api_runner(4, "Delta", "DSQ"),
                ]
            },
            API_RACE
            | {
                "race_id": "rac_2", "region": "FR", "course": "Chantilly (FR)", "off_dt": "2025-10-07T14:05:00+01:00",
                "type": "NH Flat", "class": "", "going": "Very Soft", "surface": "Turf", "dist_y": "2640",
                "runners": [api_runner(5, "Epsilon (FR)", "VOI"), api_runner(6, "Zeta (FR)", "VOI")],
            },
            API_RACE | {"race_id": "rac_3", "runners": []},
    ]  # fmt: skip
    parsed = read("racing-api", store, {"results.json": json.dumps({"results": results, "total": 3})})
    found = races(parsed)
    race, horses = found["rac_1"].race, runners(found["rac_1"])
    assert race.off_time == datetime(2025, 10, 7, 19, 30, tzinfo=UTC)
    assert (race.race_date, race.course, race.country, race.surface) == (
        date(2025, 10, 7),
        "Southwell (AW)",
        "GB",
        "AW",
    )
    assert (race.distance_m, race.race_class, race.race_type, race.handicap) == (1621.0, 6, "Flat", True)
    first = horses["hrs_1"]
    assert (first.weight_lbs, first.finish_time_s, first.sp_decimal, first.official_rating) == (122.0, 103.25, 3.25, 47)
    assert (first.jockey_id, first.trainer_id, first.horse) == ("jky_1", "trn_1", "Alpha (IRE)")
    second = horses["hrs_2"]
    assert (second.beaten_lengths, second.sp_decimal, second.official_rating) == (0.05, None, None)
    assert finishes(found["rac_1"]) == {
        "hrs_1": ("FINISHED", 1), "hrs_2": ("FINISHED", 2), "hrs_3": ("PU", None), "hrs_4": ("DSQ", None)
    }  # fmt: skip
    assert first.kept["results.runners.rpr"] == "57"
    assert set(finishes(found["rac_2"]).values()) == {("VOID", None)}
    assert (found["rac_2"].race.race_type, found["rac_2"].race.race_class, found["rac_2"].race.distance_m) == (
        "NHF",
        None,
        2414.0,
    )
    assert [letter.race_id for letter in parsed.refused] == ["rac_3"], "a race without runners is accounted for too"
    alone = read("racing-api", store, {"races.ndjson": "\n".join(json.dumps(race) for race in results)})
    assert [result.race for result in alone.messages] == [result.race for result in parsed.messages], "saved one a line"
    assert list(map(finishes, alone.messages)) == list(map(finishes, parsed.messages))


def test_racecards_of_the_racing_api_have_the_keys_of_its_results(store: Store, tmp_path: Path) -> None:
    race = {
        "race_id": "rac_9", "course": "Naas (IRE)", "date": "2025-10-08", "off_time": "2:05", "off_dt": "2025-10-08T14:05:00+01:00",
        "race_name": "Beta Maiden", "distance_round": "1m", "distance": "1m", "distance_f": "8.0", "region": "IRE", "race_class": "",
        "type": "Flat", "rating_band": "", "going": "Good", "surface": "Turf",
        "runners": [
            {"horse_id": "hrs_1", "horse": "Alpha", "number": "1", "draw": "3", "lbs": "130", "ofr": "-", "age": "3", "jockey": "A Rider",
             "jockey_id": "jky_1", "trainer": "B Trainer", "trainer_id": "trn_1", "sex_code": "G", "headgear": "", "past_results_flags": []},
            {"horse_id": "hrs_2", "horse": "Beta", "number": "NR", "draw": "", "lbs": "126", "ofr": "88", "age": "3", "jockey": "", "jockey_id": "",
             "trainer": "C Trainer", "trainer_id": "trn_2", "sex_code": "F", "headgear": "b", "past_results_flags": []},
        ],
    }  # fmt: skip
    path = tmp_path / "cards.json"
    path.write_text(json.dumps({"racecards": [race], "total": 1}), encoding="utf-8")
    importer = registry.importer("racing-api-cards")
    assert isinstance(importer, CardsImporter)
    parsed = importer.read([path], store)
    (card,) = parsed.messages
    assert (card.race.off_time, card.race.distance_m) == (datetime(2025, 10, 8, 13, 5, tzinfo=UTC), 1609.0)
    assert (card.known_at, parsed.rows, parsed.refused) == (None, 2, [])
    first, second = card.runners
    assert (first.horse_id, first.jockey_id, first.weight_lbs, first.official_rating) == ("hrs_1", "jky_1", 130.0, None)
    assert (second.runner_no, second.draw, second.jockey_id, second.official_rating) == (None, None, None, 88)


ANZ = """LOCAL_MEETING_DATE,SCHEDULED_RACE_TIME,ACTUAL_OFF_TIME,TRACK,STATE_CODE,RACE_NO,WIN_MARKET_ID,WIN_MARKET_NAME,PLACE_MARKET_ID,RACING_TYPE,DISTANCE,RACE_TYPE,SELECTION_ID,TAB_NUMBER,SELECTION_NAME,WIN_RESULT,WIN_BSP,PLACE_RESULT,PLACE_BSP
2025-04-01,12:35,12:37,Alpha Park,NSW,2,241000001,R2 1200m Mdn,241000002,Thoroughbred,1200,Mdn,11,1,1. Alpha,WINNER,2.46,WINNER,1.3
2025-04-01,12:35,12:37,Alpha Park,NSW,2,241000001,R2 1200m Mdn,241000002,Thoroughbred,1200,Mdn,12,2,2. Beta,LOSER,14.5,WINNER,3.1
2025-04-01,12:35,12:37,Alpha Park,NSW,2,241000001,R2 1200m Mdn,241000002,Thoroughbred,1200,Mdn,13,3,3. Gamma,REMOVED,,REMOVED,
2025-04-01,12:35,12:37,Alpha Park,NSW,2,241000001,R2 1200m Mdn,241000002,Thoroughbred,1200,Mdn,12,2,2. Beta,LOSER,14.5,WINNER,3.1
1/04/2025,13:10,,Beta Downs,NZ,3,241000005,R3 1600m Hcap,241000006,Thoroughbred,1600,Hcap,21,1,Delta,LOSER,3.0,LOSER,1.5
"""


def test_the_exchanges_australian_file_says_who_won_and_who_ran(store: Store) -> None:
    """Places are unknown; a removed horse did not run; a repeated row counts once; a race without a winner is refused."""
    parsed = read("betfair-anz", store, {"ANZ_Thoroughbreds_2025_04.csv": ANZ})
    (result,) = parsed.messages
    assert (result.race.race_date, result.race.country, result.race.distance_m) == (date(2025, 4, 1), "AUS", 1200.0)
    assert finishes(result) == {"11": ("RAN", 1), "12": ("RAN", None), "13": ("NR", None)}
    horses = runners(result)
    assert (horses["11"].horse, horses["11"].sp_decimal, horses["12"].runner_no) == ("Alpha", 2.46, 2)
    assert horses["11"].won
    assert not horses["12"].won
    assert horses["11"].kept["SCHEDULED_RACE_TIME"] == "12:35", "a time without a zone is kept and not read"
    assert [(letter.race_id, letter.reason) for letter in parsed.refused] == [("241000005", "no winner")]
    assert parsed.warnings["row repeated exactly, left out"] == 1


HKJC_CHINESE = """date,venue,race_no,race_name,race_class,distance_m,rating_range,going,course,place,horse_no,horse_name,jockey,trainer,actual_wt_lbs,declared_wt_lbs,draw,lbw,running_position,finish_time,win_odds
2026-04-29,跑馬地,4,甲讓賽,第四班,1200,60-40,好地至黏地,"草地 - ""C"" 賽道",1,3,甲 (H110),騎甲,練甲,129,1166,2,---,7 5 1,1:10.23,4.1
2026-04-29,跑馬地,4,甲讓賽,第四班,1200,60-40,好地至黏地,"草地 - ""C"" 賽道",2,11,乙 (K532),騎乙,練乙,117,1086,7,短馬頭位,1 1 2,1:10.25,4.6
2026-04-29,跑馬地,4,甲讓賽,第四班,1200,60-40,好地至黏地,"草地 - ""C"" 賽道",3 平頭馬,1,丙 (L022),騎丙,練丙,135,1148,5,1-1/2,5 4 3,1:10.47,2.8
2026-04-29,跑馬地,4,甲讓賽,第四班,1200,60-40,好地至黏地,"草地 - ""C"" 賽道",3 平頭馬,12,丁 (G394),騎丁,練丁,117,1072,6,1-1/2,2 2 4,1:10.47,31
2026-04-29,跑馬地,4,甲讓賽,第四班,1200,60-40,好地至黏地,"草地 - ""C"" 賽道",,,戊 (H106),騎戊,練戊,120,---,---,---,---,---,---
2026-04-29,跑馬地,4,甲讓賽,第四班,1200,60-40,好地至黏地,"草地 - ""C"" 賽道",1,3,甲 (H110),騎甲,練甲,129,1166,2,---,7 5 1,1:10.23,4.1
"""
HKJC_ENGLISH = """Date,Racecourse,Race Number,Class,Distance,Going,Course,Pla.,Horse No.,Horse,Jockey,Trainer,Act. Wt.,Declar. Horse Wt.,Dr.,LBW,RunningPosition,Finish Time,Win Odds
2019/01/06,ST,7,Class 4,1200M,GOOD,ALL WEATHER TRACK,1,2,ALPHA (V123),A Rider,B Trainer,133,1020,7,-,1 1 1,1.08.90,3.4
2019/01/06,ST,7,Class 4,1200M,GOOD,ALL WEATHER TRACK,2,1,BETA (T045),B Rider,C Trainer,127,1101,3,N,2 2 2,1.08.95,12
2019/01/06,ST,7,Class 4,1200M,GOOD,ALL WEATHER TRACK,DISQ,4,GAMMA (P009),C Rider,C Trainer,120,990,4,2-1/4,3 3 3,1.09.20,99
2019/01/06,ST,7,Class 4,1200M,GOOD,ALL WEATHER TRACK,WV,5,DELTA (S100),---,D Trainer,118,---,---,---,---,---,---
"""


def test_hong_kong_scrapes_are_read_with_chinese_headers_and_words(store: Store) -> None:
    parsed = read("hkjc", store, {"results.csv": HKJC_CHINESE})
    (result,) = parsed.messages
    race, horses = result.race, runners(result)
    assert (race.race_id, race.course, race.race_date) == ("2026-04-29 跑馬地 4", "Happy Valley", date(2026, 4, 29))
    assert (race.race_class, race.going, race.surface, race.course_config) == (4, "Good to Yielding", "Turf", "C")
    assert (race.distance_m, race.rating_band, race.country, race.handicap) == (1200.0, "60-40", "HK", True)
    assert finishes(result) == {
        "H110": ("FINISHED", 1), "K532": ("FINISHED", 2), "L022": ("FINISHED", 3), "G394": ("FINISHED", 3), "H106": ("NR", None)
    }  # fmt: skip
    assert [horses[key].beaten_lengths for key in ("H110", "K532", "L022")] == [None, 0.1, 1.5]
    assert (horses["K532"].horse, horses["K532"].finish_time_s, horses["K532"].weight_lbs) == ("乙", 70.25, 117.0)
    assert (horses["G394"].sp_decimal, horses["H106"].sp_decimal, horses["H106"].draw) == (31.0, None, None)
    assert parsed.warnings["row repeated exactly, left out"] == 1
    assert not parsed.refused


def test_hong_kong_scrapes_are_read_with_the_sites_english_headers(store: Store) -> None:
    (result,) = read("hkjc", store, {"results.csv": HKJC_ENGLISH}).messages
    assert (result.race.course, result.race.race_class, result.race.surface) == ("Sha Tin", 4, "AW")
    assert result.race.handicap is None, "the file has no name of the race"
    assert finishes(result) == {
        "V123": ("FINISHED", 1),
        "T045": ("FINISHED", 2),
        "P009": ("DSQ", None),
        "S100": ("NR", None),
    }
    horses = runners(result)
    assert (horses["T045"].beaten_lengths, horses["T045"].finish_time_s, horses["T045"].horse) == (0.3, 68.95, "BETA")
    assert horses["P009"].beaten_lengths == 2.25


NETKEIBA = """race_id,着順,枠番,馬番,馬名,性齢,斤量,騎手,タイム,着差,単勝,人気,馬体重,調教師,course_len,weather,race_type,ground_state,date,horse_id,jockey_id
202005040311,1,2,3,アルファ,牡4,57.0,騎手一,1:34.5,,3.5,1,516(+4),[東] 調教一,1600,晴,芝,良,2020年10月17日,2016100001,01001
202005040311,2,4,7,ベータ,牝5,55.0,▲騎手二,1:34.5,同着,12.4,5,480(-2),[西] 調教二,1600,晴,芝,良,2020年10月17日,2015100002,01002
202005040311,中止,5,9,ガンマ,セ6,57.0,騎手三,,,88.0,12,計不,[東] 調教三,1600,晴,芝,良,2020年10月17日,2014100003,01003
202005040311,取消,6,11,デルタ,牡3,54.0,騎手四,,,---,,,[東] 調教四,1600,晴,芝,良,2020年10月17日,2017100004,01004
202005040312,1(降),2,3,イプシロン,牡4,57.0,騎手一,1:11.0,,2.0,1,500(0),[東] 調教一,1200,晴,ダート,稍重,2020年10月17日,2016100005,01001
202042040312,1,2,3,ゼータ,牡4,57.0,騎手一,1:11.0,,2.0,1,500(0),[東] 調教一,1200,晴,ダート,良,2020年10月17日,2016100006,01001
"""


def test_netkeibas_table_is_read_with_its_japanese_words(store: Store) -> None:
    """Weights are kilograms; a going is another word on dirt; a local association's course is not known, and its race refused."""
    parsed = read("netkeiba", store, {"results.csv": NETKEIBA})
    found = races(parsed)
    race, horses = found["202005040311"].race, runners(found["202005040311"])
    assert (race.course, race.race_no, race.country, race.race_date) == ("Tokyo", 11, "JPN", date(2020, 10, 17))
    assert (race.distance_m, race.surface, race.going) == (1600.0, "Turf", "Firm")
    assert finishes(found["202005040311"]) == {
        "2016100001": ("FINISHED", 1), "2015100002": ("FINISHED", 2), "2014100003": ("DNF", None), "2017100004": ("NR", None)
    }  # fmt: skip
    first, second = horses["2016100001"], horses["2015100002"]
    assert (first.weight_lbs, first.body_weight_lbs) == (125.66, 1137.59), "57 and 516 kg"
    assert (first.finish_time_s, first.sp_decimal, first.age, first.sex, first.draw) == (94.5, 3.5, 4, "牡", 3)
    assert (second.jockey, second.trainer, second.jockey_id) == ("騎手二", "調教二", "01002")
    assert horses["2014100003"].body_weight_lbs is None
    assert (found["202005040312"].race.going, found["202005040312"].race.surface) == ("Good", "Dirt")
    assert [(letter.race_id, letter.reason) for letter in parsed.refused] == [("202042040312", "bad value")]


KAGGLE_JRA = """レースID,レース日付,競馬場コード,競馬場名,レース番号,レース名,障害区分,芝・ダート区分,距離(m),天候,馬場状態1,発走時刻,着順,着順注記,枠番,馬番,馬名,性別,馬齢,斤量,騎手,タイム,着差,上り,単勝,人気,馬体重,場体重増減,調教師
198606070101,1986-06-07,6,中山,1,三歳未勝利,,ダート,1200,晴,重,10:05,1,,1,2,アルファ,牡,3,55,騎手一,1:12.3,,37.1,2.4,1,460,4,調教一
198606070101,1986-06-07,6,中山,1,三歳未勝利,,ダート,1200,晴,重,10:05,,中,3,5,ベータ,牝,3,53,騎手二,,,,18.2,6,430,-2,調教二
198606070101,1986-06-07,6,中山,1,三歳未勝利,,ダート,1200,晴,重,10:05,,除,3,6,ガンマ,牝,3,53,騎手三,,,,,,,,調教三
"""


def test_kaggles_file_of_japanese_races_is_read_with_its_offs(store: Store) -> None:
    (result,) = read("netkeiba", store, {"race_result.csv": KAGGLE_JRA.replace("1986060701", "1986060601")}).messages
    race, horses = result.race, runners(result)
    assert (race.course, race.off_time) == ("Nakayama", datetime(1986, 6, 7, 1, 5, tzinfo=UTC)), (
        "five past ten in Tokyo"
    )
    assert (race.going, race.surface, race.race_name, race.distance_m) == ("Muddy", "Dirt", "三歳未勝利", 1200.0)
    assert finishes(result) == {"アルファ": ("FINISHED", 1), "ベータ": ("DNF", None), "ガンマ": ("NR", None)}
    first = horses["アルファ"]
    assert (first.age, first.sex, first.weight_lbs, first.finish_time_s, first.sp_decimal) == (
        3,
        "牡",
        121.25,
        72.3,
        2.4,
    )


def turkish_horse(number: str, name: str, result: str, **fields: object) -> dict[str, object]:
    return {
        "KOD": f"90{number}", "NO": number, "AD": name, "YAS": "4y d e", "START": number, "KILO": "57,5", "FAZLAKILO": "",
        "HANDIKAP": "71", "JOKEYADI": "A.RIDER", "JOKEYKODU": "501", "ANTRENORADI": "B.TRAINER", "ANTRENORKODU": "601", "TAKI": "KG DB",
        "SONUC": result, "DERECE": "1.24.45", "FARK": "", "GANYAN": "18,50", "KOSMAZ": False, "AGF1": "5,20",
    } | fields  # fmt: skip


def test_the_turkish_feed_is_read_from_its_races_and_horses(store: Store) -> None:
    day = {
        "KEY": "ISTANBUL", "YER": "İstanbul", "HIPODROM": "Veliefendi", "YURTDISI": False, "hava": {"CIM_TR": "Normal", "KUM_TR": "Islak"},
        "kosular": [
            {
                "KOD": "7001", "NO": "3", "TARIH": "28/06/2026", "SAAT": "15:30", "MESAFE": "1400", "PISTADI_TR": "Kum",
                "ONEMLIKOSUADI_TR": False, "GRUP_TR": "4 Yaş", "ikramiyeler": ["595.000,00"],
                "atlar": [
                    turkish_horse("1", "ALFA", "1"),
                    turkish_horse("2", "BETA", "2", GANYAN="1.250,5", DERECE="1.25.02", KILO="60", FAZLAKILO="0,40"),
                    turkish_horse("3", "GAMA", "", DERECE=False, GANYAN=False, TAKI=False, HANDIKAP=False),
                    turkish_horse("4", "DELTA", "", KOSMAZ="true", DERECE="", GANYAN=""),
                ],
            }
        ],
    }  # fmt: skip
    (result,) = read("tjk", store, {"ISTANBUL.json": json.dumps(day)}).messages
    race, horses = result.race, runners(result)
    assert (race.race_id, race.course, race.country) == ("28/06/2026 İstanbul 3", "İstanbul", "TUR")
    assert (race.race_date, race.off_time) == (date(2026, 6, 28), datetime(2026, 6, 28, 12, 30, tzinfo=UTC))
    assert (race.distance_m, race.surface, race.race_name, race.race_no) == (1400.0, "Dirt", None, 3)
    assert finishes(result) == {
        "901": ("FINISHED", 1),
        "902": ("FINISHED", 2),
        "903": ("RAN", None),
        "904": ("NR", None),
    }
    first, second = horses["901"], horses["902"]
    assert (first.weight_lbs, first.finish_time_s, first.sp_decimal, first.age) == (126.77, 84.45, 18.5, 4)
    assert second.kept["kosular.atlar.FAZLAKILO"] == "0,40", "overweight is kept and not added"
    assert (second.weight_lbs, second.sp_decimal, second.jockey_id, second.trainer_id) == (132.28, 1250.5, "501", "601")


def chart_starter(program: str, name: str, position: int | None, odds: float, **fields: object) -> dict[str, object]:
    return {
        "program": program, "horse": {"name": name}, "jockey": {"name": "A Rider", "lastName": "Rider"}, "trainer": {"name": "B Trainer"},
        "weight": {"carried": 124, "jockeyAllowance": 0}, "postPosition": int(program[0]), "finishPosition": position,
        "officialPosition": position, "odds": odds, "disqualified": False, "comments": "3wd", "ratings": [],
        "pointsOfCall": [{"point": 1, "relativePosition": {"position": 2}}],
    } | fields  # fmt: skip


def test_north_american_charts_are_read_from_their_starters(store: Store) -> None:
    """Ten past seven is the evening in Colorado; a dead heat; one placed behind its finish; a course whose zone is not known."""
    chart = {
        "cancelled": False, "raceDate": {"text": "2016-07-24", "year": 2016}, "raceNumber": 3, "postTime": "7:10",
        "track": {"code": "ARP", "country": "USA", "state": "CO", "name": "ARAPAHOE PARK"}, "surface": "Dirt", "format": "Flat",
        "trackCondition": "Sloppy (Sealed)", "distance": {"text": "Six Furlongs", "feet": 3960, "furlongs": 6.0},
        "conditions": {"breed": "THOROUGHBRED", "name": None, "type": "CLAIMING"}, "scratches": [{"horse": {"name": "Omega"}}],
        "starters": [
            chart_starter("1", "Alpha (IRE)", 1, 3.4), chart_starter("1A", "Beta", 1, 0.3), chart_starter("3", "Gamma", 3, 12.0, finishPosition=1),
            chart_starter("4", "Delta", None, 99.9),
        ],
    }  # fmt: skip
    elsewhere = chart | {"track": {"code": "XYZ", "country": "USA", "name": "NOWHERE DOWNS"}}
    cancelled = {key: chart[key] for key in ("raceDate", "track")} | {
        "cancelled": True,
        "raceNumber": 4,
        "starters": None,
    }
    parsed = read("equibase-charts", store, {"charts.json": json.dumps([chart, elsewhere, cancelled])})
    found = races(parsed)
    race, horses = found["2016-07-24 ARP 3"].race, runners(found["2016-07-24 ARP 3"])
    assert (race.off_time, race.race_date) == (datetime(2016, 7, 25, 1, 10, tzinfo=UTC), date(2016, 7, 24))
    assert (race.distance_m, race.surface, race.going, race.race_type) == (1207.0, "Dirt", "Muddy (Sloppy)", "Flat")
    assert finishes(found["2016-07-24 ARP 3"]) == {
        "alpha (ire)": ("FINISHED", 1), "beta": ("FINISHED", 1), "gamma": ("FINISHED", 3), "delta": ("RAN", None)
    }  # fmt: skip
    assert (horses["alpha (ire)"].sp_decimal, horses["beta"].sp_decimal, horses["beta"].runner_no) == (4.4, 1.3, 1)
    assert (horses["gamma"].weight_lbs, horses["gamma"].draw, horses["gamma"].trainer_id) == (124.0, 3, "b trainer")
    unplaced = found["2016-07-24 XYZ 3"]
    assert unplaced.race.off_time == datetime(2016, 7, 24, 13, 0, tzinfo=UTC), (
        "14:00 in London: the estimate for race 3"
    )
    assert unplaced.runners[0].kept["off_inferred"] is True
    assert parsed.warnings["course in no known zone, its offs estimated: NOWHERE DOWNS"] == 1
    assert [(letter.race_id, letter.reason) for letter in parsed.refused] == [("2016-07-24 ARP 4", "no winner")]


def test_files_of_an_archive_that_are_of_another_kind_are_left_out_and_counted(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "archive.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in {
            "races_1997.csv": UK_RACES,
            "horses_1997.csv": UK_HORSES,
            "forward.csv": "a,b\n1,2\n",
        }.items():
            archive.writestr(name, text)
    importer = registry.importer("kaggle-uk-ire")
    assert isinstance(importer, ResultsImporter)
    parsed = importer.read([path], store)
    assert sorted(races(parsed)) == ["100", "101"]
    assert parsed.warnings["file of an archive, of another source, left out"] == 1


def test_every_shipped_mapping_is_tested_here() -> None:
    tested = {
        "kaggle-hk",
        "kaggle-uk-ire",
        "racing-api",
        "racing-api-cards",
        "betfair-anz",
        "hkjc",
        "netkeiba",
        "tjk",
        "equibase-charts",
    }
    assert {mapping.name for mapping in registry.shipped_mappings()} == tested
