"""Paper trading: bets at each race's decision time, recorded, settled on the weighed-in result and reported."""
