"""Field heads: the background models of the MIMN paper and their relatives, each over any state (`interface`)."""

from mimn.nn.heads.afm import AfmHead
from mimn.nn.heads.dcn import DcnHead, DcnV2Head
from mimn.nn.heads.deep_crossing import DeepCrossingHead
from mimn.nn.heads.deepfm import DeepFmHead
from mimn.nn.heads.fnn import FactorizationMachine, FnnHead
from mimn.nn.heads.interface import FieldHead, FieldInputs, HeadSizes
from mimn.nn.heads.mlp import MlpHead
from mimn.nn.heads.nfm import NfmHead
from mimn.nn.heads.pnn import InnerPnnHead, OuterPnnHead
from mimn.nn.heads.wide_deep import WideDeepHead

HEADS: dict[str, type[FieldHead]] = {
    "mlp": MlpHead,
    "deep_crossing": DeepCrossingHead,
    "fm": FactorizationMachine,
    "fnn": FnnHead,
    "pnn_inner": InnerPnnHead,
    "pnn_outer": OuterPnnHead,
    "wide_deep": WideDeepHead,
    "deepfm": DeepFmHead,
    "dcn": DcnHead,
    "dcn_v2": DcnV2Head,
    "nfm": NfmHead,
    "afm": AfmHead,
}
"""By the name that a configuration gives them."""

__all__ = ["HEADS", "FieldHead", "FieldInputs", "HeadSizes"]
