"""Networks. They know images, times and conditions, and nothing of diffusion or guidance."""

from cfg_jax.registry import Registry

BACKBONES = Registry(
    'model.kind',
    {
        'unet': ('cfg_jax.models.networks:make_unet', "ADM's U-Net, which denoises"),
        'classifier': (
            'cfg_jax.models.networks:make_classifier',
            "ADM's classifier of noisy images, for classifier guidance",
        ),
    },
)
# Networks that are imported (`cfg_jax.pretrained`), never trained here.
PUBLISHED = Registry(
    'published model.kind',
    {
        'adm': ('cfg_jax.models.adm:make_unet', "ADM's published U-Nets"),
        'edm2': ('cfg_jax.models.edm2:make_unet', "EDM2's U-Nets"),
        'adm_classifier': ('cfg_jax.models.adm:make_classifier', "ADM's published classifiers"),
    },
)


def is_classifier(kind: str) -> bool:
    """Whether networks of this `model.kind` classify noisy images rather than denoise."""
    return kind.endswith('classifier')
