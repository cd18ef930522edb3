"""Returns of plans on the sampled requests whose outcomes are in."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from noria.blending.accounting.attribution import Requests, displace, lift
from noria.blending.accounting.returns import PlanReturn, plan_returns
from noria.blending.blender import Blender
from noria.blending.service.loop.learning import ClosedRequest
from noria.blending.service.wire.streams import candidates_of_arrow
from noria.blending.snapshot import Snapshot


def sampled_returns(closed: Sequence[ClosedRequest], snapshot: Snapshot) -> list[PlanReturn]:
    """Returns of plans on sampled requests; none where there are fewer than two requests.

    Args:
        closed: sampled requests with their outcomes.
        snapshot: snapshot that serves; a plan that rests is taken as on.
    """
    awake = {plan: replace(one, resting=False) for plan, one in snapshot.settings.items()}
    blender = Blender(snapshot.next(created=snapshot.created, settings=awake))
    values, masks, gains, start = [], [], [], [0]
    users = []
    sizes: Counter[int] = Counter()
    for one in closed:
        candidates = candidates_of_arrow(one.candidates, scene=one.decision.scene)
        value = snapshot.alignment.align(candidates).value
        mask = blender.masks(candidates.columns, len(candidates), at=one.decision.at)
        outcomes = [one.outcomes.get(str(item), (math.nan, math.nan)) for item in candidates.item]
        gain = np.array([g if not math.isnan(g) else a for a, g in outcomes])
        good = np.isfinite(value)
        values.append(value[good])
        masks.append(mask[good])
        gains.append(np.where(np.isnan(gain), value, gain)[good])
        start.append(start[-1] + int(good.sum()))
        users.append(one.decision.user or one.decision.request)
        sizes[len(one.decision.items)] += 1
    if len(users) < 2:
        return []
    requests = Requests(np.concatenate(values), np.concatenate(masks), np.array(start, np.int64))
    displaced = displace(requests, blender.tables, sizes.most_common(1)[0][0])
    brought, lost = lift(requests, displaced, np.concatenate(gains))
    return plan_returns(
        displaced,
        blender.plans,
        brought,
        generator=np.random.default_rng(0),
        unknown=lost.tolist(),
        clusters=users,
        resamples=500,
    )
