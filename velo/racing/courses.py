"""The location of a racecourse: its country, its time zone (IANA) and the hours of its clock in which races start there.

Country codes are those that racing papers put behind a foreign horse's name. A country of several zones has its
courses by zone; one of its courses that is not listed may be in any of them.
"""

import re
from collections.abc import Mapping
from datetime import date, datetime
from functools import lru_cache
from typing import Final
from zoneinfo import ZoneInfo

ALL_WEATHER: Final = re.compile(r"\(a\.?w\.?\)|(?<=[a-z])[- ]aw\b", re.IGNORECASE)
"""How a course says that it is the artificial track: `Lingfield (AW)`, and in addresses `kempton-aw`."""
_SUFFIX: Final = re.compile(r"\(([A-Z]{2,3})\)")
_SLUG_COUNTRY: Final = re.compile(r"-(gb|ire|usa|aus|nz|saf|can|uae|fr|ger|hk|jpn)$", re.IGNORECASE)
_PARENTHESES: Final = re.compile(r"\([^)]*\)")

ZONES: Final[Mapping[str, str]] = {
    "ARG": "America/Argentina/Buenos_Aires", "AUT": "Europe/Vienna", "BAR": "America/Barbados", "BEL": "Europe/Brussels",
    "BHR": "Asia/Bahrain", "BRZ": "America/Sao_Paulo", "BUL": "Europe/Sofia", "CHI": "America/Santiago",
    "CHN": "Asia/Shanghai", "COL": "America/Bogota", "CRO": "Europe/Zagreb", "CYP": "Asia/Nicosia",
    "CZE": "Europe/Prague", "DEN": "Europe/Copenhagen", "DOM": "America/Santo_Domingo", "ECU": "America/Guayaquil",
    "FIN": "Europe/Helsinki", "FR": "Europe/Paris", "GB": "Europe/London", "GER": "Europe/Berlin", "GR": "Europe/Athens",
    "GUE": "Europe/Guernsey", "HK": "Asia/Hong_Kong", "HOL": "Europe/Amsterdam", "HUN": "Europe/Budapest",
    "IND": "Asia/Kolkata", "IRE": "Europe/Dublin", "ISR": "Asia/Jerusalem", "ITY": "Europe/Rome", "JAM": "America/Jamaica",
    "JER": "Europe/Jersey", "JPN": "Asia/Tokyo", "KEN": "Africa/Nairobi", "KOR": "Asia/Seoul", "KSA": "Asia/Riyadh",
    "KUW": "Asia/Kuwait", "LEB": "Asia/Beirut", "LTU": "Europe/Vilnius", "MAC": "Asia/Macau", "MAL": "Asia/Kuala_Lumpur",
    "MAU": "Indian/Mauritius", "MEX": "America/Mexico_City", "MOR": "Africa/Casablanca", "NOR": "Europe/Oslo",
    "NZ": "Pacific/Auckland", "OMN": "Asia/Muscat", "PAN": "America/Panama", "PER": "America/Lima", "PHI": "Asia/Manila",
    "POL": "Europe/Warsaw", "POR": "Europe/Lisbon", "PR": "America/Puerto_Rico", "QA": "Asia/Qatar",
    "ROM": "Europe/Bucharest", "SAF": "Africa/Johannesburg", "SIN": "Asia/Singapore", "SLO": "Europe/Bratislava",
    "SPA": "Europe/Madrid", "SRB": "Europe/Belgrade", "SVN": "Europe/Ljubljana", "SWE": "Europe/Stockholm",
    "SWI": "Europe/Zurich", "TRI": "America/Port_of_Spain", "TUN": "Africa/Tunis", "TUR": "Europe/Istanbul",
    "UAE": "Asia/Dubai", "UKR": "Europe/Kyiv", "URU": "America/Montevideo", "VEN": "America/Caracas",
    "YUG": "Europe/Belgrade", "ZIM": "Africa/Harare",
}  # fmt: skip
"""The zone of each country that has one."""

COURSE_ZONES: Final[Mapping[str, Mapping[str, str]]] = {
    "USA": {
        "America/New_York": """aiken aqueduct atlanta atlantahunt atlanticcity belmontpark belmontatthebiga belterrapark
            beulahpark bowie brookhill butler caldercasino calder callawaygardens camden charlestown charlotte
            churchilldowns clemmons colonialdowns colombuspark delawarepark detroit fairhill fairfax farhills
            fingerlakes foxfield gardenstate geneseevalley glyndon greatlakesdowns greatmeadow gulfstreampark
            gulfstreamparkwest hardscuffle hazelpark hialeahpark hoosierpark horseshoeindianapolis indianadowns
            indianagrand keeneland laurelpark lexington littleeverglades mahoningvalley malvern marlboro meadowlands
            middleburg monkton monmouthpark montpelier morvenpark mountaineerpark ocalaturfclub parx parxracing
            pennnational philadelphiapark pimlico pinemountain presqueisledowns redbank redmile riverdowns rockinghampark
            sandhill saratoga shawandowns southernpines stoneybrook strawberryhill suffolkdowns tampabaydowns thistledown
            timonium tryon turfwaypark unionville willowdalesteeplechase winterthur""",
        "America/Chicago": """arlington arlingtonpark blueribbondowns canterburypark deltadowns ellispark evangelinedowns
            fairgrounds fairmeadows fairmountpark fonnerpark hawthorne horsemenspark iroquois kentuckydowns lonestarpark
            louisianadowns manordowns nashville oaklawnpark percywarnerpark prairiemeadows remingtonpark retamapark
            samhouston sportsmanspark thewoodlands willrogersdowns""",
        "America/Denver": """albuquerque arapahoepark energydowns lamesapark lesboispark ruidosodowns santafe
            sunlandpark sunraypark wyomingdowns yellowstonedowns ziapark""",
        "America/Phoenix": "arizonadowns prescottdowns rillito turfparadise yavapaidowns",
        "America/Los_Angeles": """baymeadows baymeadowsfair delmar emeralddowns fairplexpark ferndale fresno
            goldengatefields grantspass hollywoodpark losalamitos longacres oaktreeathollywoodpark oaktreeatsantaanita
            pleasanton portlandmeadows sacramento santaanita santaanitapark santarosa solano stockton wallawalla
            yakimameadows""",
        "America/Puerto_Rico": "camareroracetrack elcomandante",
    },
    "CAN": {
        "America/Toronto": "ajaxdowns forterie picovdowns woodbine",
        "America/Winnipeg": "assiniboiadowns",
        "America/Regina": "marquisdowns",
        "America/Edmonton": "albertadowns centurydowns centurymile grandeprairie lethbridge northlandspark stampedepark",
        "America/Vancouver": "desertpark hastingspark hastingsracecourse kamloops kinpark sandownpark",
    },
    "AUS": {
        "Australia/Sydney": """albury armidale bathurst canberra canterbury canterburypark cessnock coffsharbour corowa dubbo
            gosford goulburn grafton gundagai hawkesbury kemblagrange kensington moruya muswellbrook newcastle nowra orange
            portmacquarie queanbeyan queanbeyaan randwick rosehill rosehillgardens scone tamworth taree waggawagga
            warwickfarm wellington wyong young""",
        "Australia/Melbourne": """ararat avoca bairnsdale ballarat balnarring benalla bendigo camperdown casterton caulfield
            caulfieldheath colac coleraine cranbourne donald echuca edenhope flemington geelong hamilton hangingrock horsham
            kilmore kyneton mildura moe mooneevalley mornington murtoa pakenham sale sandown sandownhillside sandownlakeside
            seymour stawell stonycreek swanhill tatura terang traralgon wangaratta warracknabeal warrnambool werribee wodonga
            yarravalley""",
        "Australia/Hobart": "devonport elwick hobart launceston mowbray",
        "Australia/Brisbane": """beaudesert bundaberg cairns dalby doomben eaglefarm emerald gatton gladstone goldcoast
            goondiwindi ipswich mackay rockhampton sunshinecoast toowoomba townsville warwick""",
        "Australia/Adelaide": """balaklava cheltenham clare gawler morphettville morphettvilleparks mountgambier murraybridge
            naracoorte oakbank penola portaugusta portlincoln strathalbyn victoriapark""",
        "Australia/Darwin": "alicesprings darwin fanniebay katherine",
        "Australia/Perth": """albany ascot belmontpark broome bunbury esperance geraldton kalgoorlie larkhill northam
            pinjarra york""",
    },
    "RUS": {
        "Europe/Moscow": "grozny gudermes kazan krasnodar krasmodar moscow nalchik pyatigorsk rostovondon",
        "Asia/Yekaterinburg": "ufa",
    },
}  # fmt: skip
"""Countries of several zones: their courses (letters alone) by zone."""

HOME_COURSES: Final[Mapping[str, frozenset[str]]] = {
    "GB": frozenset(
        """aintree ascot ayr bangorondee bath beverley brighton carlisle cartmel catterick chelmsford chelmsfordcity
        cheltenham chepstow chester doncaster epsom epsomdowns exeter fakenham ffoslas folkestone fontwell goodwood greatleighs
        hamilton haydock hereford hexham huntingdon kelso kempton larkhill leicester lingfield ludlow marketrasen musselburgh
        newbury newcastle newmarket newmarketjuly newtonabbot nottingham perth plumpton pontefract redcar ripon salisbury
        sandown sedgefield southwell stratford taunton thirsk towcester uttoxeter warwick wetherby wincanton windsor
        wolverhampton worcester yarmouth york""".split()
    ),
    "IRE": frozenset(
        """ballinrobe bellewstown clonmel cork curragh downroyal downpatrick dundalk fairyhouse galway gowranpark kilbeggan
        killarney laytown leopardstown limerick limerickjunction listowel mallow naas navan phoenixpark punchestown roscommon
        sligo thurles tipperary tralee tramore wexford wexfordrh""".split()
    ),
}
"""Courses that a British paper names without their country, and the Irish ones whose addresses leave it out."""

_DAY: Final = (10 * 60, 22 * 60)
_HOURS: Final[Mapping[str, tuple[int, int]]] = {
    "JPN": (9 * 60, 21 * 60),
    **dict.fromkeys(("AUS", "FR"), (10 * 60 + 30, 22 * 60 + 30)),
    **dict.fromkeys(("HK", "MAC", "MAL", "SIN"), (11 * 60, 23 * 60)),
    **dict.fromkeys(("BHR", "KSA", "KUW", "OMN", "QA", "UAE"), (12 * 60, 24 * 60)),
    **dict.fromkeys(("CAN", "MEX", "PAN", "PR", "TUR", "USA"), (10 * 60 + 30, 24 * 60)),
    **dict.fromkeys(("ARG", "BRZ", "CHI", "COL", "DOM", "ECU", "PER", "URU", "VEN"), (11 * 60, 24 * 60 + 30)),
}
"""First and last off that its daylight and floodlights allow, in minutes of its own day; `_DAY` elsewhere."""


@lru_cache(maxsize=4096)
def course_letters(course: str) -> str:
    """A course by its letters alone, without remarks in parentheses, artificial track or country: `Kempton (AW)` is kempton."""
    bare = _SLUG_COUNTRY.sub("", ALL_WEATHER.sub("", course.strip()))
    return "".join(filter(str.isalpha, _PARENTHESES.sub(" ", bare).casefold()))


@lru_cache(maxsize=4096)
def country_of(course: str, region: str | None = None) -> str | None:
    """A course's country: of its suffix (`Naas (IRE)`, `ascot-aus`), else the given region, else of a British or Irish name."""
    suffixes: list[str] = [code for code in _SUFFIX.findall(course) if code != "AW"]
    if suffixes:
        return suffixes[-1]
    if region:
        return region.upper()
    of_slug = _SLUG_COUNTRY.search(ALL_WEATHER.sub("", course.strip()))
    if of_slug:
        return of_slug[1].upper()
    return next((country for country, courses in HOME_COURSES.items() if course_letters(course) in courses), None)


@lru_cache(maxsize=4096)
def zones_of(course: str, country: str | None) -> tuple[ZoneInfo, ...]:
    """The zones a course can be in: one, all those of its country where the course is not listed, none where it is unknown."""
    if country is not None and country in ZONES:
        return (ZoneInfo(ZONES[country]),)
    by_zone = COURSE_ZONES.get(country or "", {})
    name = course_letters(course)
    named = [zone for zone, courses in by_zone.items() if name in courses.split()]
    return tuple(ZoneInfo(zone) for zone in named or by_zone)


def may_start(instant: datetime, course: str, country: str | None) -> bool:
    """Whether a race may start at an instant at a course, by daylight or floodlight; false too where its zone is unknown."""
    first, last = _HOURS.get(country or "", _DAY)
    for zone in zones_of(course, country):
        local = instant.astimezone(zone)
        minute = local.hour * 60 + local.minute
        if first <= minute <= last or minute + 24 * 60 <= last:
            return True
    return False


def local_day(instant: datetime, course: str, country: str | None) -> date | None:
    """The date at a course at an instant; None where its zone is not known well enough to say."""
    days = {instant.astimezone(zone).date() for zone in zones_of(course, country)}
    return days.pop() if len(days) == 1 else None
