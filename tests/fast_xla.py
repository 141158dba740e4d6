"""XLA's flags for tests, most of whose time is compiling: little optimisation."""

FLAGS = '--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true'
