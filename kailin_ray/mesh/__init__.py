"""The MeSH hierarchy, its information content, and the similarity of descriptors and of sets of descriptors."""

from kailin_ray.mesh.hierarchy import MeshHierarchy

__all__ = ["MeshHierarchy"]
