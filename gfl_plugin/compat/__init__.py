"""All that exists only because of the age of the stack; to be deleted the day the stack is healed.

``ops``: mmcv's compiled operators, where they are missing; ``deform_conv``: one of them. ``vision``: torchvision, where
it is absent or broken. ``packages``: ``package::config`` bases without pkg_resources. ``stack``: which stack is there,
and is it one we know.
"""
