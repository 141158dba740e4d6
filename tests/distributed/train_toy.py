"""scripts/train.py with a toy in the place of the network, which compiles at once.

python distributed/train_toy.py ARGUMENTS    # from tests/
"""

from cfg_jax import cli


def main(argv):
    from support import script, toy_instead_of_networks  # while the log is shown as commands do

    with toy_instead_of_networks():
        script('train.py').main(argv)


if __name__ == '__main__':
    cli.run(main)
