"""XLA's flags for tests, most of whose time is compiling: little optimisation."""

import importlib.metadata

FLAGS = '--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true'
if importlib.metadata.version('jaxlib').startswith('0.10.'):  # others end at unknown flags
    FLAGS += ' --xla_cpu_use_fusion_emitters=false'
