"""The layers of a classifier, under the name by which scripts import them: see ``camseg.cams.layers``."""

from camseg.cams.layers import Layer as Layer
from camseg.cams.layers import check_layer as check_layer
from camseg.cams.layers import find_layer as find_layer
from camseg.cams.layers import find_stages as find_stages
from camseg.cams.layers import layout_at as layout_at
from camseg.cams.layers import list_layers as list_layers
from camseg.cams.layers import stage_layers as stage_layers
from camseg.cams.layout import Layout as Layout
