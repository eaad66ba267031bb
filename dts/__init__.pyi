from dts.client.simple import map_frame as map_frame
from dts.client.simple import map_lines as map
from dts.client.simple import submit as submit
from dts.version import __version__ as __version__

__all__ = ["__version__", "map", "map_frame", "submit"]
