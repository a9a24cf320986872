"""Sites: sets of weights, units, experts or layers that are ranked together.

Training draws one mask for each site, of its lowest entries; pruning removes the lowest of each
site. A new kind of site is a new file and a row in `plan`.
"""

from hf_td.ranking.sites.advice import general
from hf_td.ranking.sites.experts import ExpertSite
from hf_td.ranking.sites.layers import LayerSite, layer_site
from hf_td.ranking.sites.plan import plan_sites
from hf_td.ranking.sites.same_shape import SameShape, group_by_shape
from hf_td.ranking.sites.site import Cost, Kind, Site, scores_to_prune, tied_groups
from hf_td.ranking.sites.slices import Slice, by_feature
from hf_td.ranking.sites.units import UnitSite
from hf_td.ranking.sites.weights import WeightSite

__all__ = [
    "Cost",
    "ExpertSite",
    "Kind",
    "LayerSite",
    "SameShape",
    "Site",
    "Slice",
    "UnitSite",
    "WeightSite",
    "by_feature",
    "group_by_shape",
    "general",
    "layer_site",
    "plan_sites",
    "scores_to_prune",
    "tied_groups",
]
