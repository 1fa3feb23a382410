"""captum.attr: the attributions that class-activation maps need."""

from __future__ import annotations

from typing import Any

from ... import refused
from ._core.guided_backprop_deconvnet import GuidedBackprop
from ._core.guided_grad_cam import GuidedGradCam
from ._core.layer.grad_cam import LayerGradCam
from ._utils.attribution import Attribution, GradientAttribution, LayerAttribution

__all__ = [
    "Attribution",
    "GradientAttribution",
    "GuidedBackprop",
    "GuidedGradCam",
    "LayerAttribution",
    "LayerGradCam",
]


_ABSENT = frozenset(
    """
    ClassSummarizer CommonStats Count DataLoaderAttribution Deconvolution DeepLift DeepLiftShap FeatureAblation
    FeaturePermutation GradientShap ImageMaskInput InputXGradient IntegratedGradients InternalInfluence
    InterpretableEmbeddingBase InterpretableInput KernelShap LLMAttribution LLMAttributionResult
    LLMGradientAttribution LRP LayerActivation LayerConductance LayerDeepLift LayerDeepLiftShap LayerFeatureAblation
    LayerFeaturePermutation LayerGradientShap LayerGradientXActivation LayerIntegratedGradients LayerLRP Lime
    LimeBase MSE Max Mean Min NeuronAttribution NeuronConductance NeuronDeconvolution NeuronDeepLift
    NeuronDeepLiftShap NeuronFeatureAblation NeuronGradient NeuronGradientShap NeuronGuidedBackprop
    NeuronIntegratedGradients NoiseTunnel Occlusion PerturbationAttribution ProductBaselines RemoteLLMAttribution
    RemoteLLMProvider Saliency ShapleyValueSampling ShapleyValues StatValue StdDev Sum Summarizer
    SummarizerSingleTensor TextTemplateInput TextTokenInput TokenReferenceBase VLLMProvider Var
    configure_interpretable_embedding_layer remove_interpretable_embedding_layer visualization
    """.split()  # noqa: SIM905
)
"""What else captum.attr has: attributions of other kinds, which have no class-activation map in them."""


def __getattr__(name: str) -> Any:
    raise refused("captum.attr", name, _ABSENT, __all__)
