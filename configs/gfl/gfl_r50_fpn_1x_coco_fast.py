# The 1x setting in bf16, for a GPU, with the same schedule and losses. Not measured on a GPU yet. CPU measurements are
# noted on each line.
_base_ = './gfl_r50_fpn_1x_coco.py'

# bf16 has the range of fp32, so no loss scale is needed. gfl_plugin.GFLHead computes losses and boxes in fp32 anyway.
optim_wrapper = dict(
    type='AmpOptimWrapper',
    dtype='bfloat16',
    loss_scale=1.0,
    optimizer=dict(fused=True))  # one kernel for all parameters; on a CPU a step takes 13 ms instead of 23

# A faster step needs its images sooner. Reading, flipping and resizing one took 65 ms on a busy core, so two workers
# give 30 images a second. Pinned memory lets the next batch be copied while the device works on this one.
train_dataloader = dict(num_workers=6, pin_memory=True)
model = dict(data_preprocessor=dict(non_blocking=True))

# cuDNN's search for the fastest algorithm stays off (env_cfg in the base config): batches come in dozens of sizes, and
# cuDNN would search for each of them. If your batches have one size: --cfg-options env_cfg.cudnn_benchmark=True.
# torch.compile is left out for the same reason: it would make one graph for each size and number of objects. TF32,
# PyTorch's default for fp32 convolutions, does nothing in bf16.
# Tensor cores work in channels-last layout. (On a CPU in fp32 it was slower: 0.84 of the speed, 0.73 to 0.96.)
custom_hooks = [dict(type='gfl_plugin.ChannelsLastHook')]
