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
