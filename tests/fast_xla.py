"""XLA's flags for tests, most of whose time is compiling: little optimisation, and no threads."""

import importlib.metadata

FLAGS = '--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true'
FLAGS += ' --xla_cpu_parallel_codegen_split_count=1'  # parts for threads cost more than they save
if importlib.metadata.version('jaxlib').startswith('0.10.'):  # others end at unknown flags
    FLAGS += ' --xla_cpu_use_fusion_emitters=false'
