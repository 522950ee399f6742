"""What every room uses: errors, text, files, the output folder, executors, devices, units."""

from finetune.core.lazy import offers

__getattr__, __all__ = offers(
    __name__,
    {
        "counter": "Counter",
        "devices": (
            "choose_device choose_dtype free_memory multiplication peak_memory training_dtype"
        ),
        "errors": (
            "DataError EarlierRunError FinetuneError FoundationError HeadError RecipeError "
            "RunFolderError RunStoppedError TrainingError reason suggestion system_errors"
        ),
        "executors": (
            "Job ThisProcess WorkerDiedError WorkerProcesses result_of work_through worker_name"
        ),
        "files": (
            "OTHER_OUTPUT alone appearing check_free finite is_unfinished read_json "
            "refuse_working_folder remove_unfinished write_atomically write_folder write_json"
        ),
        "process": "StopSignals process_count process_rank",
        "lazy": "offers",
        "options": "Options Registry explain flattened lines merged_deeply resolve",
        "resources": "cache embedded expanded find shipped",
        "run_files": (
            "ADAPTER ADAPTER_RECORD BUNDLE CHECKPOINTS COMMITTEE ENVIRONMENT FILES MEMBERS "
            "METRICS RECIPE RESULT STAGES STATE STATE_MANIFEST STATE_TENSORS TENSORBOARD WANDB "
            "foreign"
        ),
        "text": "counted shortened",
        "units": "FORCE_UNIT STRESS_UNIT Prediction Units energy_unit parse_units readable",
    },
)
