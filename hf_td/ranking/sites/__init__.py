"""What is ranked together: a site is a set of weights or units of which the lowest may go.

Training draws one mask for each site, pruning takes the lowest of each site out. Another kind of
site is another file, and a row in `plan`.
"""

from hf_td.ranking.sites.alike import Alike, batches
from hf_td.ranking.sites.experts import ExpertSite
from hf_td.ranking.sites.plan import plan_sites
from hf_td.ranking.sites.site import Cost, Kind, Site, tied_groups
from hf_td.ranking.sites.slices import Slice, by_feature
from hf_td.ranking.sites.units import UnitSite
from hf_td.ranking.sites.weights import WeightSite

__all__ = [
    "Alike",
    "Cost",
    "ExpertSite",
    "Kind",
    "Site",
    "Slice",
    "UnitSite",
    "WeightSite",
    "batches",
    "by_feature",
    "plan_sites",
    "tied_groups",
]
