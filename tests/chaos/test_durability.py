"""What was answered 200 is there, whatever is killed: `kill -9` of the service, of Postgres, of both.

`./run chaos --kills 100` kills more often.
"""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING

from tests.chaos.figures import note_figures
from tests.chaos.machines import Load, Service, assert_all_is_there

if TYPE_CHECKING:
    from pathlib import Path

    from tests.chaos.machines import Database

KILLS = int(os.environ.get("MIRROR_KILLS", "0"))
MOST_BETWEEN = 300  # acknowledgements


async def test_every_delivery_answered_200_survives_kills_of_the_service_and_of_postgres(
    tmp_path: Path, server_to_kill: Database
) -> None:
    server = server_to_kill
    chance = random.Random(KILLS)
    victims = ["service", "postgres", "both"] if not KILLS else chance.choices(["service", "postgres", "both"], k=KILLS)
    async with Service(tmp_path, server.dsn) as service:
        async with Load(service) as load:
            for victim in victims:
                await load.has_acknowledged(chance.randint(1, MOST_BETWEEN))
                if victim != "service":
                    server.kill()
                if victim != "postgres":
                    await service.kill()
                    await service.start()
                if victim != "service":
                    await load.has_acknowledged(chance.randint(1, MOST_BETWEEN))  # into the spool
                    await server.start()
            await load.has_acknowledged(MOST_BETWEEN)
        await service.is_drained()
        await assert_all_is_there(server, load.acknowledged)
        assert load.refused == []
        note_figures(kills=len(victims), acknowledged=len(load.acknowledged), lost=0, unanswered=load.broken)
