"""What `lostattn` exports, for checkers of types and editors; at run time it is imported when it is asked for."""

from lostattn import answers as answers
from lostattn import data as data
from lostattn import experiments as experiments
from lostattn import gradients as gradients
from lostattn import interventions as interventions
from lostattn import lenses as lenses
from lostattn import means as means
from lostattn import metrics as metrics
from lostattn import patching as patching
from lostattn import pools as pools
from lostattn import reductions as reductions
from lostattn import remote as remote
from lostattn import view as view
from lostattn import zoo as zoo
from lostattn.cache import ActivationCache as ActivationCache
from lostattn.interventions import Ablate as Ablate
from lostattn.interventions import Complexity as Complexity
from lostattn.interventions import Composition as Composition
from lostattn.interventions import Dirichlet as Dirichlet
from lostattn.interventions import Fixed as Fixed
from lostattn.interventions import FromCache as FromCache
from lostattn.interventions import Gaussian as Gaussian
from lostattn.interventions import Intervention as Intervention
from lostattn.interventions import KnockOut as KnockOut
from lostattn.interventions import NoiseUpdate as NoiseUpdate
from lostattn.interventions import NoiseWeights as NoiseWeights
from lostattn.interventions import Patch as Patch
from lostattn.interventions import Released as Released
from lostattn.interventions import RemoveRotary as RemoveRotary
from lostattn.interventions import ReplaceAttention as ReplaceAttention
from lostattn.interventions import ScaleAttention as ScaleAttention
from lostattn.interventions import Steer as Steer
from lostattn.interventions import Uniform as Uniform
from lostattn.interventions import VisionPrior as VisionPrior
from lostattn.model import LVLM as LVLM
from lostattn.model import load as load
from lostattn.pictures.videos import Video as Video
from lostattn.prompt import Prompt as Prompt
from lostattn.prompt import TokenMap as TokenMap

__version__: str
__all__: list[str]
