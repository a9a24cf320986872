from .archive import load_archive as load_archive
from .archive import save_archive as save_archive
from .card.info import CardInfo as CardInfo
from .card.info import TextSample as TextSample
from .card.latency import Latency as Latency
from .card.latency import measure_latency as measure_latency
from .export import Export as Export
from .export import export_model as export_model
from .forms.archive import load_archived_model as load_archived_model
from .from_disk.prune import PrunedFolder as PrunedFolder
from .from_disk.prune import prune_folder as prune_folder
from .push.commit import push_to_hub as push_to_hub

__all__: list[str]
