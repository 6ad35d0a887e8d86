# What all runs share: hooks, logging and visualization.
default_scope = 'mmdet'
custom_imports = dict(imports=['gfl_plugin'])  # registers `gfl_plugin.*`

default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='gfl_plugin.CheckpointHook', interval=1, max_keep_ckpts=3),  # a kill leaves complete files
    sampler_seed=dict(type='DistSamplerSeedHook'),
    visualization=dict(type='DetVisualizationHook'),
    check_setup=dict(type='gfl_plugin.CheckSetupHook'),  # compares head and data, checkpoint and model
    resume=dict(type='gfl_plugin.ResumeHook'),  # a resumed run goes on exactly where it was
    history=dict(type='gfl_plugin.HistoryHook'),  # keeps only as much of each logged value as the log needs
    interrupt=dict(type='gfl_plugin.InterruptHook'),  # SIGTERM and SIGINT: save, then end
    loss_guard=dict(type='gfl_plugin.LossGuardHook', patience=10))

env_cfg = dict(
    cudnn_benchmark=False,  # image sizes vary from batch to batch
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    # Without CUDA tools/train.py uses gloo instead. A rank waits `timeout` seconds for a rank that hangs. That must be
    # more than rank 0 takes to evaluate and save alone. torchrun notices at once when a rank dies.
    dist_cfg=dict(backend='nccl', timeout=1800))

vis_backends = [dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')]
# Each run gives it another name, so two runs in a process share nothing.
visualizer = dict(type='DetLocalVisualizer', vis_backends=vis_backends)
log_processor = dict(type='LogProcessor', window_size=50, by_epoch=True)

log_level = 'INFO'
load_from = None
resume = False
