"""Invented, unique, pronounceable names; none refers to a real horse or person."""

import numpy as np

from velo.errors import UserError


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_STARTS = _words(
    "Bal Bram Cal Car Cor Dal Del Dor El Fal Fen Gal Gar Har Hol Is Jar Kel Kir Lan Lor Mal Mar Mel Mor Nar Nor Or Pel "
    "Per Quil Ral Ros Sal Sel Sor Tal Tar Thor Tor Val Vel Ver Vor Wil Win Yar Zan Zel"
)
_ENDS = _words(
    "adon anta aro bella bray cado cora dane dara dello dora fane fira gano gora hira lana lido lora mano mara mira "
    "mondo nessa nova quin rado reno rina rosa sano sina tano tessa tiva vado vane vella vero zano"
)
_ADJECTIVES = _words(
    "Amber Ancient Artful Autumn Bashful Blazing Bold Brazen Bright Bronze Candid Careful Cheerful Clever Cobalt "
    "Copper Crimson Curious Dainty Dapper Daring Distant Dusky Eager Early Electric Emerald Faithful Fearless "
    "Feathered Fleeting Frosted Gallant Gentle Gilded Glowing Golden Graceful Hazy Hidden Humble Idle Indigo Ivory "
    "Jaunty Jolly Keen Kindly Laughing Lively Lonesome Lucky Lunar Marbled Mellow Merry Midnight Mighty Misty Modest "
    "Nimble Noble Northern Patient Polished Proud Quiet Radiant Rambling Restless Roving Royal Rustic Sapphire Scarlet "
    "Secret Shining Silent Silver Smiling Solemn Spirited Spotted Steady Stormy Sudden Sunlit Swift Tangled Tender "
    "Thundery Tidy Timely Twilight Upland Valiant Velvet Violet Wandering Weathered Whispering Wild Willing Winter "
    "Wistful Woven Zealous"
)
_NOUNS = _words(
    "Abbot Acorn Admiral Alibi Anchor Angel Answer Anthem Apricot Arbour Archer Arrow Ballad Bandit Banner Baron Bay "
    "Beacon Bell Blossom Boatman Bonnet Bracken Bramble Breeze Brook Buccaneer Canyon Captain Caravan Castle Cavalier "
    "Chancer Charm Chorus Clover Comet Compass Coral Cottage Countess Courier Cove Crest Crown Dance Dancer Dawn "
    "Diamond Dream Drifter Drummer Duchess Echo Ember Empress Envoy Fable Falcon Fancy Fern Fiddler Flame Fox Galaxy "
    "Garden Garland Ghost Glade Glory Grove Guardian Gypsum Harbour Harmony Harp Harvest Haven Heather Herald Hermit "
    "Heron Highway Hill Horizon Hunter Island Jester Jewel Journey Jubilee Juniper Keeper Kestrel Knight Lad Lady "
    "Lagoon Lantern Lark Laurel Legend Letter Light Lily Lodge Magic Magnet Maiden Major Maple Marble Mariner Market "
    "Marvel Matter Meadow Melody Memory Merlin Minstrel Miracle Mirror Mist Moment Moon Moor Morning Mountain Music "
    "Mystery Nectar Nomad Notion Oak Oasis Ocean Opal Orchard Orchid Otter Outlaw Palace Parade Pearl Pepper Phantom "
    "Picnic Pilgrim Pilot Piper Planet Poet Poppy Postman Prairie Prince Promise Prophet Puzzle Quarry Quartz Queen "
    "Quest Raider Rain Rambler Ranger Raven Rebel Reef Reply Reward Rhythm Ribbon Riddle River Robin Rocket Rover Ruby "
    "Sage Sailor Satin Scholar Scout Season Shadow Shore Signal Sky Song Sparrow Spice Spirit Squire Star Storm Story "
    "Stream Summer Summit Sunset Tale Tango Temple Thistle Thunder Tide Tiger Topaz Tower Trader Treasure Trick "
    "Troubadour Truffle Valley Venture Verse Victor Viola Voyage Walker Waltz Warrior Water Wave Whisper Willow Wind "
    "Wish Wizard Wonder Wood Yarn Zephyr"
)
_GIVEN = _words(
    "Ada Adam Alec Alice Amy Anna Barney Beth Callum Cara Clara Colin Connor Daisy Dan David Dylan Edie Eliza Ellen "
    "Emma Ewan Fay Finn Fiona Frank Gemma George Grace Harriet Harry Hugh Ian Isla Ivan Jack James Jane Joe Kate Keith "
    "Laura Leo Lewis Lily Lucy Luke Marcus Mary Megan Neil Nina Oliver Owen Paul Peggy Rhys Robin Rory Rose Ruth Sam "
    "Sean Tess Theo Tom Una Vera Will Zoe"
)
_SURNAME_STARTS = _words(
    "Ald Ash Bex Birk Brand Brax Carl Chad Crox Dalk Dray Elk Farn Fos Garv Grax Had Harv Holv Ink Jess Kel Kirv Lamb "
    "Lox Marv Merr Nant Norv Oax Pell Pont Quen Rad Rix Salt Selv Stav Tarl Thax Trev Ulv Varl Wad Wex Wolv Yarv Zell"
)
_SURNAME_ENDS = _words(
    "aby acre all anby ard bourne bury by combe croft dale den field ford gate ham hurst ick ington land ley low mere "
    "more ock over rick shaw sley stead stoke thorpe ton vane wick worth"
)


def horse_names(rng: np.random.Generator, count: int) -> list[str]:
    """`count` different horse names without country, of at most 18 letters.

    Raises `UserError` if the word lists have too few names.
    """
    firsts = [*_ADJECTIVES, *(start + end for start in _STARTS for end in _ENDS)]
    letters = np.add.outer([len(first) for first in firsts], [len(second) for second in _NOUNS])
    pairs = np.flatnonzero(letters < 18)
    if count > len(pairs):
        raise UserError(f"{count} horses: the word lists make {len(pairs)} names; simulate fewer horses or years")
    return [
        f"{firsts[pair // len(_NOUNS)]} {_NOUNS[pair % len(_NOUNS)]}"
        for pair in pairs[rng.permutation(len(pairs))[:count]].tolist()
    ]


def people_names(rng: np.random.Generator, count: int) -> list[str]:
    """`count` different names of people; surnames repeat only if there are too few.

    Raises `UserError` if the word lists have too few names.
    """
    surnames = [start + end for start in _SURNAME_STARTS for end in _SURNAME_ENDS]
    if count > len(surnames) * len(_GIVEN):
        raise UserError(f"{count} people: the word lists make {len(surnames) * len(_GIVEN)} names; simulate fewer")
    order, given = rng.permutation(len(surnames)), rng.permutation(len(_GIVEN))
    # The shift per lap gives a repeated surname another given name.
    return [
        f"{_GIVEN[given[(at + at // len(surnames)) % len(_GIVEN)]]} {surnames[order[at % len(surnames)]]}"
        for at in range(count)
    ]


def race_title(rng: np.random.Generator) -> str:
    """The first part of a race's name: `Amber Meadow` or a surname."""
    if rng.random() < 0.5:
        return f"{_ADJECTIVES[rng.integers(len(_ADJECTIVES))]} {_NOUNS[rng.integers(len(_NOUNS))]}"
    return f"{_SURNAME_STARTS[rng.integers(len(_SURNAME_STARTS))]}{_SURNAME_ENDS[rng.integers(len(_SURNAME_ENDS))]}"
