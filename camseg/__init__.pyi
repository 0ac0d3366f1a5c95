from .base.errors import (
    AllKnownError as AllKnownError,
)
from .base.errors import (
    CamsegError as CamsegError,
)
from .base.errors import (
    CheckpointError as CheckpointError,
)
from .base.errors import (
    CorrectionError as CorrectionError,
)
from .base.errors import (
    DatasetError as DatasetError,
)
from .base.errors import (
    EmptyBackgroundError as EmptyBackgroundError,
)
from .base.errors import (
    EmptyForegroundError as EmptyForegroundError,
)
from .base.errors import (
    EvaluationError as EvaluationError,
)
from .base.errors import (
    ExchangeError as ExchangeError,
)
from .base.errors import (
    ImageError as ImageError,
)
from .base.errors import (
    InputError as InputError,
)
from .base.errors import (
    LayerError as LayerError,
)
from .base.errors import (
    OutputError as OutputError,
)
from .base.errors import (
    RemoteError as RemoteError,
)
from .base.errors import (
    SolverError as SolverError,
)
from .base.errors import (
    StaleMaskError as StaleMaskError,
)
from .base.errors import (
    ThresholdError as ThresholdError,
)
from .base.errors import (
    TrimapError as TrimapError,
)
from .base.errors import (
    WeightsUnavailableError as WeightsUnavailableError,
)
from .base.errors import (
    WorkerError as WorkerError,
)
from .cams.compute import classifier_features as classifier_features
from .cams.compute import compute_cams as compute_cams
from .cams.layers import list_layers as list_layers
from .cams.settings import CamSettings as CamSettings
from .classify.checkpoint import load_classifier as load_classifier
from .classify.classifier import Classifier as Classifier
from .classify.ensemble import Ensemble as Ensemble
from .data.datasets import Dataset as Dataset
from .data.datasets import Sample as Sample
from .data.datasets import load_images as load_images
from .data.datasets import load_training_data as load_training_data
from .data.images import read_cam as read_cam
from .data.images import read_image as read_image
from .data.images import read_mask as read_mask
from .data.images import read_trimap as read_trimap
from .data.images import write_cam as write_cam
from .data.images import write_image as write_image
from .data.images import write_mask as write_mask
from .data.mask_settings import MaskReading as MaskReading
from .data.settings import Augmentation as Augmentation
from .data.truth import find_true_masks as find_true_masks
from .exchange.corrections import Corrector as Corrector
from .exchange.corrections import correct as correct
from .exchange.export import export_folder as export_folder
from .exchange.importing import ImportReport as ImportReport
from .exchange.importing import import_corrections as import_corrections
from .exchange.output import ExportReport as ExportReport
from .exchange.settings import ExportInputs as ExportInputs
from .exchange.settings import ExportSettings as ExportSettings
from .exchange.settings import ImportSettings as ImportSettings
from .label.chain import Labelled as Labelled
from .label.chain import label_image as label_image
from .label.folder import cams_folder as cams_folder
from .label.folder import label_folder as label_folder
from .label.segmenting import segment_folder as segment_folder
from .label.settings import LabelSettings as LabelSettings
from .label.settings import SegmentSettings as SegmentSettings
from .label.steps import masks_folder as masks_folder
from .label.steps import propagate_folder as propagate_folder
from .label.steps import refine_folder as refine_folder
from .label.steps import trimap_folder as trimap_folder
from .masks.cleaning import clean as clean
from .masks.consensus import agreement as agreement
from .masks.consensus import pairwise_dice as pairwise_dice
from .masks.settings import CleaningSettings as CleaningSettings
from .masks.settings import FusionSettings as FusionSettings
from .masks.settings import MaskSettings as MaskSettings
from .masks.settings import Threshold as Threshold
from .masks.settings import load_threshold as load_threshold
from .masks.settings import parse_threshold as parse_threshold
from .masks.settings import save_threshold as save_threshold
from .masks.threshold import cam_to_mask as cam_to_mask
from .measure.evaluate import evaluate_folder as evaluate_folder
from .measure.matting_errors import connectivity_error as connectivity_error
from .measure.matting_errors import gradient_error as gradient_error
from .measure.matting_errors import mean_squared_error as mean_squared_error
from .measure.matting_errors import sum_of_absolute_differences as sum_of_absolute_differences
from .measure.metrics import mean_dice as mean_dice
from .models.building import create_model as create_model
from .models.building import normalisation as normalisation
from .prepare.dicom import prepare_dicom as prepare_dicom
from .prepare.frames import prepare_frames as prepare_frames
from .prepare.output import PreparationReport as PreparationReport
from .prepare.rois import prepare_rois as prepare_rois
from .prepare.settings import DicomSettings as DicomSettings
from .prepare.settings import FrameSettings as FrameSettings
from .prepare.settings import LabelClass as LabelClass
from .prepare.settings import Padding as Padding
from .prepare.settings import RoiSettings as RoiSettings
from .prepare.settings import SliceSettings as SliceSettings
from .prepare.slices import prepare_slices as prepare_slices
from .propagation.parameters import CrfSettings as CrfSettings
from .propagation.parameters import GuidedSettings as GuidedSettings
from .propagation.parameters import ParSettings as ParSettings
from .propagation.parameters import SuperpixelSettings as SuperpixelSettings
from .propagation.parameters import WalkSettings as WalkSettings
from .propagation.propagate import propagate as propagate
from .propagation.settings import PropagateSettings as PropagateSettings
from .refinement.refine import Refined as Refined
from .refinement.refine import refine as refine
from .refinement.refine import refine_with_report as refine_with_report
from .refinement.settings import RefineSettings as RefineSettings
from .refinement.settings import TrimapSettings as TrimapSettings
from .refinement.trimaps import mask_to_trimap as mask_to_trimap
from .refinement.trimaps import masks_to_trimap as masks_to_trimap
from .refinement.trimaps import published_trimap as published_trimap
from .refinement.trimaps import unusable as unusable
from .review.calibrate import QualityReport as QualityReport
from .review.calibrate import quality_folder as quality_folder
from .review.findings import MaskRow as MaskRow
from .review.findings import Report as Report
from .review.items import MaskItem as MaskItem
from .review.items import MaskItems as MaskItems
from .review.progress import Standing as Standing
from .review.progress import loop_folder as loop_folder
from .review.report import report_folder as report_folder
from .review.settings import QualitySettings as QualitySettings
from .review.settings import ReportSettings as ReportSettings
from .runs.corrections import Correction as Correction
from .runs.corrections import CorrectionSummary as CorrectionSummary
from .runs.corrections import read_corrections as read_corrections
from .runs.loop import FolderReport as FolderReport
from .runs.manifest import read_manifest as read_manifest
from .runs.merge import MergeReport as MergeReport
from .runs.merge import merge_folders as merge_folders
from .runs.mirrors import mirror_images as mirror_images
from .runs.record import Record as Record
from .runs.sending import OutputMirror as OutputMirror
from .runs.settings import FolderOptions as FolderOptions
from .runs.settings import Placement as Placement
from .runs.settings import Shard as Shard
from .runs.settings import parse_shard as parse_shard
from .segment.checkpoint import load_segmenter as load_segmenter
from .segment.segmenter import Segmenter as Segmenter
from .segment.settings import ViewSettings as ViewSettings
from .studies.audit import audit_runs as audit_runs
from .studies.choose import choose_runs as choose_runs
from .studies.compare import compare_models as compare_models
from .studies.doctor import Finding as Finding
from .studies.doctor import check_installation as check_installation
from .studies.ensembles import make_ensemble as make_ensemble
from .studies.settings import AuditSettings as AuditSettings
from .studies.settings import ChooseSettings as ChooseSettings
from .studies.settings import CompareSettings as CompareSettings
from .studies.settings import EnsembleSettings as EnsembleSettings
from .train.mask_batches import MaskedSet as MaskedSet
from .train.members import plan_members as plan_members
from .train.members import prepare_members as prepare_members
from .train.members import train_members as train_members
from .train.plan import plan_training as plan_training
from .train.plan import prepare_training as prepare_training
from .train.plan import run_training as run_training
from .train.segmenter_plan import plan_segmenter_training as plan_segmenter_training
from .train.segmenter_plan import prepare_segmenter_training as prepare_segmenter_training
from .train.segmenter_plan import run_segmenter_training as run_segmenter_training
from .train.segmenter_trainer import train_segmenter as train_segmenter
from .train.settings import MemberSettings as MemberSettings
from .train.settings import SegmenterSettings as SegmenterSettings
from .train.settings import SegmenterTraining as SegmenterTraining
from .train.settings import StudentSettings as StudentSettings
from .train.settings import Training as Training
from .train.settings import TrainSettings as TrainSettings
from .train.student import find_pseudo_masks as find_pseudo_masks
from .train.student import pixel_lessons as pixel_lessons
from .train.trainer import train_classifier as train_classifier

__version__: str
