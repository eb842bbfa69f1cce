"""The help of a command: its template in ``conf/``, with the groups and the configuration filled in."""

from string import Template

from omegaconf import DictConfig, OmegaConf, open_dict

from kailin_ray.config import conf_dir


def format_help(composed: DictConfig) -> str:
    """The help text of a command, from its configuration composed ``with_help``."""
    template = Template(composed.hydra.help.template)
    with open_dict(composed):
        del composed["hydra"]
    return template.safe_substitute(APP_CONFIG_GROUPS=format_groups(), CONFIG=OmegaConf.to_yaml(composed))


def format_groups() -> str:
    """A line for each group of ``conf/`` with its options."""
    groups = sorted(folder for folder in conf_dir().iterdir() if folder.is_dir())
    options = {group.name: sorted(file.stem for file in group.glob("*.yaml")) for group in groups}
    return "\n".join(f"{name}: {', '.join(stems)}" for name, stems in options.items())
