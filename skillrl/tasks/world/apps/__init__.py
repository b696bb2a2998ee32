"""The applications that level 2 and 3 repositories are made of."""

from skillrl.tasks.world.apps import agenda, board, ledger, routes, search, shop
from skillrl.tasks.world.apps.base import App, Scenario

__all__ = ["HELDOUT_APPS", "TRAIN_APPS", "App", "Scenario"]

TRAIN_APPS = (agenda.APP, ledger.APP, search.APP, shop.APP)
HELDOUT_APPS = (board.APP, routes.APP)
