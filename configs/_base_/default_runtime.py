# What every run shares: hooks, logging, visualization.
default_scope = 'mmdet'
custom_imports = dict(imports=['gfl_plugin'])  # registers `gfl_plugin.*`

default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='gfl_plugin.CheckpointHook', interval=1, max_keep_ckpts=3),  # a kill leaves whole files
    sampler_seed=dict(type='DistSamplerSeedHook'),
    visualization=dict(type='DetVisualizationHook'),
    check_setup=dict(type='gfl_plugin.CheckSetupHook'),  # head against data, checkpoint against model
    resume=dict(type='gfl_plugin.ResumeHook'),  # data, random numbers and place in the epoch of a run that goes on
    history=dict(type='gfl_plugin.HistoryHook'),  # as much of each logged value as the log needs
    interrupt=dict(type='gfl_plugin.InterruptHook'),  # SIGTERM and SIGINT: save, then end
    loss_guard=dict(type='gfl_plugin.LossGuardHook', patience=10))

env_cfg = dict(
    cudnn_benchmark=False,  # image sizes vary from batch to batch
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    # tools/train.py takes gloo where there is no CUDA. A rank waits timeout seconds for one that hangs, not less than
    # rank 0 takes to evaluate and save alone; of one that dies torchrun knows at once.
    dist_cfg=dict(backend='nccl', timeout=1800))

vis_backends = [dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')]
visualizer = dict(type='DetLocalVisualizer', vis_backends=vis_backends)  # named by the run: two share nothing
log_processor = dict(type='LogProcessor', window_size=50, by_epoch=True)

log_level = 'INFO'
load_from = None
resume = False
