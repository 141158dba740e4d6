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
        'dit': ('cfg_jax.models.dit:make_dit', "DiT's and SiT's transformers of latents"),
        'decoder': ('cfg_jax.models.decoder:make_decoder', 'latents to images'),
        'adm_classifier': ('cfg_jax.models.adm:make_classifier', "ADM's published classifiers"),
    },
)


def role(kind: str) -> str:
    """What networks of this `model.kind` do: 'denoiser', 'classifier' or 'decoder'.

    A classifier sees noisy images; a decoder makes images of a denoiser's latents.
    """
    return next((role for role in ('classifier', 'decoder') if kind.endswith(role)), 'denoiser')
