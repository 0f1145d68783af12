package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// GPUBackend says what on a node hands out pieces of GPUs.
//
// +kubebuilder:validation:Enum=ExtendedResources;DynamicResources;Replicas
type GPUBackend string

// The back ends.
const (
	// GPUExtendedResources are neap.dev/gpu-milli and neap.dev/gpu-memory, handed
	// out by Neap's device plugin.
	GPUExtendedResources GPUBackend = "ExtendedResources"
	// GPUDynamicResources are ResourceClaims of the DeviceClass gpu.neap.dev.
	GPUDynamicResources GPUBackend = "DynamicResources"
	// GPUReplicas are the equal replicas of a device plugin that is there already.
	GPUReplicas GPUBackend = "Replicas"
)

// GPUEnforcement says what keeps a pod within its piece.
//
// +kubebuilder:validation:Enum=NativeLimits;MPS;MIG;WatchOnly
type GPUEnforcement string

// The ways to keep a pod within its piece, the strongest that can be unequal first.
const (
	// GPUNativeLimits are limits of the driver itself.
	GPUNativeLimits GPUEnforcement = "NativeLimits"
	// GPUMPS are the limits of NVIDIA's Multi-Process Service.
	GPUMPS GPUEnforcement = "MPS"
	// GPUMIG are slices of the hardware.
	GPUMIG GPUEnforcement = "MIG"
	// GPUWatchOnly keeps nobody: memory is watched, and acted on.
	GPUWatchOnly GPUEnforcement = "WatchOnly"
)

// GPUOverrun says what is done with a pod that uses more memory than its piece has.
//
// +kubebuilder:validation:Enum=Report;Evict
type GPUOverrun string

// What is done.
const (
	// GPUReport writes an event.
	GPUReport GPUOverrun = "Report"
	// GPUEvict writes an event and evicts the pod.
	GPUEvict GPUOverrun = "Evict"
)

// A GPUClass says how the pods that belong to it share GPUs. A pod belongs to the
// class that its annotation neap.dev/gpu-class names, or else the label
// neap.dev/gpu-class of its namespace. Nothing is done to pods without a class.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,shortName=gpc,categories=neap,path=gpuclasses
// +kubebuilder:printcolumn:name="Backend",type=string,JSONPath=`.spec.backend`
// +kubebuilder:printcolumn:name="Enforcement",type=string,JSONPath=`.spec.enforcement`
// +kubebuilder:printcolumn:name="Overrun",type=string,JSONPath=`.spec.onMemoryOverrun`,description="What is done with a pod that uses more memory than its piece has"
// +kubebuilder:printcolumn:name="Scheduler",type=string,JSONPath=`.spec.schedulerName`
// +kubebuilder:printcolumn:name="Models",type=string,JSONPath=`.spec.models`,priority=1
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:validation:XValidation:rule="size(self.metadata.name) <= 63",message="the name of a GPUClass has at most 63 letters, so that a namespace's label can name it"
type GPUClass struct {
	metav1.TypeMeta `json:",inline"`
	// +optional
	metav1.ObjectMeta `json:"metadata,omitzero"`

	// Spec is what you declare about the class.
	// +required
	Spec GPUClassSpec `json:"spec"`
}

// GPUClassSpec is what a user declares about a class.
//
// +kubebuilder:validation:XValidation:rule="(self.backend == 'Replicas') == has(self.replicas)",message="replicas says what another device plugin hands out: the back end Replicas needs it, and no other has it"
// +kubebuilder:validation:XValidation:rule="self.backend != 'DynamicResources' || !has(self.translate)",message="translate gives pods resources, and the back end DynamicResources goes by claims: leave translate out, or use the back end ExtendedResources"
// +kubebuilder:validation:XValidation:rule="self.backend != 'Replicas' || self.enforcement == 'WatchOnly'",message="with the back end Replicas the other device plugin enforces what it can: leave enforcement out"
// +kubebuilder:validation:XValidation:rule="self.backend != 'Replicas' || self.onMemoryOverrun == 'Report'",message="with the back end Replicas nobody knows which GPU a pod is on, so that none can be evicted for it: onMemoryOverrun is Report"
type GPUClassSpec struct {
	// Models are acceptable for pods of the class that name none themselves, in
	// the annotation neap.dev/gpu-models. Without them any model is.
	// +listType=set
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MaxLength=63
	// +kubebuilder:validation:items:Pattern=`^[A-Za-z0-9][A-Za-z0-9 ._()+-]*$`
	// +kubebuilder:validation:XValidation:rule="self.all(a, self.exists_one(b, a.lowerAscii().replace(' ', '-') == b.lowerAscii().replace(' ', '-')))",message="a model is named twice: case does not matter, nor whether a space or a hyphen"
	// +optional
	Models []string `json:"models,omitempty"`

	// Backend says what on a node hands out the pieces: ExtendedResources is
	// Neap's device plugin, DynamicResources Neap's driver for ResourceClaims,
	// Replicas a device plugin that is there already, with equal pieces.
	// +kubebuilder:default=ExtendedResources
	// +optional
	Backend GPUBackend `json:"backend,omitempty"`

	// Replicas says what the other device plugin hands out.
	// +optional
	Replicas *GPUReplica `json:"replicas,omitempty"`

	// Enforcement says what keeps a pod within its piece. WatchOnly keeps nobody:
	// it is for services that are trusted to take what they asked for.
	// +kubebuilder:default=WatchOnly
	// +optional
	Enforcement GPUEnforcement `json:"enforcement,omitempty"`

	// OnMemoryOverrun says what is done with a pod that is seen to use more memory
	// of a GPU than its piece has: Report writes an event, Evict evicts it too.
	// +kubebuilder:default=Report
	// +optional
	OnMemoryOverrun GPUOverrun `json:"onMemoryOverrun,omitempty"`

	// SchedulerName is the scheduler that pods of the class get which name none, or
	// the one of another product: neap-scheduler, and for the back end Replicas
	// default-scheduler, if left out.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +optional
	SchedulerName string `json:"schedulerName,omitempty"`

	// Translate says whose words for pieces of GPUs are understood in pods of the
	// class.
	// +optional
	Translate *GPUTranslation `json:"translate,omitempty"`
}

// GPUReplica is what another device plugin hands out.
type GPUReplica struct {
	// Resource is the name of its resource, such as nvidia.com/gpu.shared.
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:XValidation:rule="self.matches('^[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$')",message="resource is an extended resource such as nvidia.com/gpu.shared"
	// +kubebuilder:validation:XValidation:rule="!self.startsWith('neap.dev/')",message="resource is that of another device plugin: neap.dev/ is Neap's own"
	// +required
	Resource string `json:"resource"`

	// PerGPU is how many replicas each GPU has.
	// +kubebuilder:validation:Minimum=2
	// +kubebuilder:validation:Maximum=1000
	// +required
	PerGPU int32 `json:"perGPU"`

	// MemoryMiB is how much memory the smallest of those GPUs has. Pods that ask for
	// memory need it; without it they are refused.
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=16777216
	// +optional
	MemoryMiB int64 `json:"memoryMiB,omitempty"`
}

// GPUTranslation says whose words for pieces of GPUs are understood.
type GPUTranslation struct {
	// GPUShare understands aliyun.com/gpu-mem.
	// +optional
	GPUShare *GPUShareWords `json:"gpushare,omitempty"`

	// HAMi understands nvidia.com/gpu with nvidia.com/gpumem, gpumem-percentage and
	// gpucores.
	// +optional
	HAMi *GPUWords `json:"hami,omitempty"`

	// KAI understands the annotations gpu-fraction, gpu-memory and
	// gpu-fraction-num-devices.
	// +optional
	KAI *GPUWords `json:"kai,omitempty"`

	// Volcano understands volcano.sh/vgpu-number, vgpu-memory, vgpu-cores and
	// vgpu-memory-percentage.
	// +optional
	Volcano *GPUWords `json:"volcano,omitempty"`

	// WholeGPUs makes nvidia.com/gpu that stands alone whole GPUs of Neap's, too.
	// Without it such pods are left to NVIDIA's device plugin.
	// +optional
	WholeGPUs bool `json:"wholeGPUs,omitempty"`
}

// GPUWords are words that need no explanation.
type GPUWords struct{}

// GPUShareWords are the words of the gpushare scheduler extender.
type GPUShareWords struct {
	// Unit is what aliyun.com/gpu-mem counts, as the flag memory-unit of gpushare's
	// device plugin says.
	// +kubebuilder:validation:Enum=GiB;MiB
	// +kubebuilder:default=GiB
	// +optional
	Unit string `json:"unit,omitempty"`
}

// GPUClassList is a list of classes.
//
// +kubebuilder:object:root=true
type GPUClassList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []GPUClass `json:"items"`
}
