"""What `feast apply` reads here: the same objects, their tables read by Spark."""

from pathlib import Path

from velo.feature_repo.objects import feast_objects
from velo.feature_repo.spark.sources import spark_table
from velo.feature_repo.stores.home import settings_for
from velo.storage.store import Home

home = Home(settings_for(repo_path=Path.cwd()).home)
globals().update({each.name: each for each in feast_objects(home, source=spark_table)})
