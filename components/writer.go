package components

import (
	"fmt"
	"strings"

	batchv1 "github.com/pulumi/pulumi-kubernetes/sdk/v4/go/kubernetes/batch/v1"
	corev1 "github.com/pulumi/pulumi-kubernetes/sdk/v4/go/kubernetes/core/v1"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"

	"ollama-k8s/internal/modelref"
)

// The pods that fill the store: the writer Job, the scheduled check, and the init container of servers with their own
// claims. All of them run files/write-models.sh with the same plan.

const (
	writerScript = "write-models.sh"
	writerFolder = "/etc/ollama-k8s"
	writerHome   = "/home/ollama"
	caFolder     = "/etc/ollama-k8s-ca"
)

// writerConfigMap creates the ConfigMap with the script, the plan and the Modelfiles.
func (a *ModelStoreArgs) writerConfigMap(
	ctx *pulumi.Context, name, plan string, opts ...pulumi.ResourceOption,
) (pulumi.StringPtrOutput, error) {
	data := pulumi.StringMap{writerScript: pulumi.String(file(writerScript)), "plan": pulumi.String(plan)}
	for _, m := range a.Models {
		if m.Modelfile != "" {
			data[fileKey(m.Name)] = pulumi.String(m.Modelfile)
		}
	}
	config, err := corev1.NewConfigMap(ctx, name, &corev1.ConfigMapArgs{
		Metadata: autonamed(a.Namespace, roleWriter, name), Data: data, Immutable: pulumi.Bool(true),
	}, opts...)
	if err != nil {
		return pulumi.StringPtrOutput{}, err
	}
	return config.Metadata.Name(), nil
}

// plan returns what write-models.sh reads: a line for each model.
func (a *ModelStoreArgs) plan() (string, error) {
	var plan strings.Builder
	for _, m := range a.Models {
		name, err := modelref.Parse(m.Name)
		if err != nil {
			return "", err
		}
		if m.Modelfile != "" {
			fmt.Fprintf(&plan, "create %s %s/%s %s\n", m.Name, writerFolder, fileKey(m.Name), name.Path())
			continue
		}
		from := modelref.In(a.Registry, m.Name)
		source, err := modelref.Parse(from)
		if err != nil {
			return "", err
		}
		digest, options := "-", ""
		if m.Digest != "" {
			digest = m.Digest
		}
		if a.Insecure {
			options = " --insecure"
		}
		fmt.Fprintf(&plan, "pull %s %s %s %s %s%s\n", m.Name, from, source.Path(), name.Path(), digest, options)
	}
	if a.Prune {
		plan.WriteString("prune\n")
	}
	return plan.String(), nil
}

// writerJob creates the Job that an update waits for. Its pod template refers to the plan by the name of the ConfigMap,
// so a changed model list creates a new Job and an unchanged one does not. The Job's name is random, because the Jobs
// of failed updates stay until one succeeds.
func (a *ModelStoreArgs) writerJob(
	ctx *pulumi.Context, name string, config pulumi.StringPtrInput, mount StoreMount, opts ...pulumi.ResourceOption,
) error {
	metadata := autonamed(a.Namespace, roleWriter, name)
	// A failed Job never recovers. The next update must replace it, not wait for it again.
	metadata.Annotations = pulumi.StringMap{"pulumi.com/replaceUnready": pulumi.String("true")}
	_, err := batchv1.NewJob(ctx, name, &batchv1.JobArgs{Metadata: metadata, Spec: a.jobSpec(name, config, mount)},
		append([]pulumi.ResourceOption{pulumi.Timeouts(&pulumi.CustomTimeouts{
			Create: writerTimeout, Update: writerTimeout,
		})}, opts...)...)
	return err
}

// checkCronJob creates the CronJob of the maintenance window. It pulls into its own stage, so that nothing changes for
// the servers. If a model differs, the Job fails.
func (a *ModelStoreArgs) checkCronJob(
	ctx *pulumi.Context, name string, config pulumi.StringPtrInput, mount StoreMount, opts ...pulumi.ResourceOption,
) error {
	_, err := batchv1.NewCronJob(ctx, name+"-check", &batchv1.CronJobArgs{
		Metadata: named(a.Namespace, roleWriter, name, name+"-check"),
		Spec: &batchv1.CronJobSpecArgs{
			Schedule:                   pulumi.String(a.CheckSchedule),
			ConcurrencyPolicy:          pulumi.String("Forbid"),
			StartingDeadlineSeconds:    pulumi.Int(3600), // up to an hour late is still in the window
			SuccessfulJobsHistoryLimit: pulumi.Int(1),
			FailedJobsHistoryLimit:     pulumi.Int(3),
			JobTemplate:                &batchv1.JobTemplateSpecArgs{Spec: a.jobSpec(name, config, mount, "MODE", "check")},
		},
	}, opts...)
	return err
}

// jobSpec returns the spec of a writer Job. environment adds variables, as alternating names and values.
func (a *ModelStoreArgs) jobSpec(
	name string, config pulumi.StringPtrInput, store StoreMount, environment ...string,
) *batchv1.JobSpecArgs {
	volumes := append(corev1.VolumeArray{scratch(HomeVolume)}, a.writerVolumes(config)...)
	pod := &corev1.PodSpecArgs{
		RestartPolicy:                pulumi.String("Never"),
		AutomountServiceAccountToken: pulumi.Bool(false),
		SecurityContext:              restrictedPod(uidOllama),
		Containers:                   corev1.ContainerArray{a.writerContainer(environment...)},
		Volumes:                      append(volumes, claimVolume(StoreVolume, store.ClaimName, false)),
	}
	podLabels := labels(roleWriter, name)
	if store.Together != "" {
		podLabels[storeLabel] = pulumi.String(store.Together)
	}
	a.Placement.apply(pod, store.Together)
	return &batchv1.JobSpecArgs{
		BackoffLimit: pulumi.Int(0), // the script retries each model itself, and reports which one failed
		PodFailurePolicy: &batchv1.PodFailurePolicyArgs{Rules: batchv1.PodFailurePolicyRuleArray{
			&batchv1.PodFailurePolicyRuleArgs{
				Action: pulumi.String("Ignore"), // an eviction or a drain is no failure of the models
				OnPodConditions: batchv1.PodFailurePolicyOnPodConditionsPatternArray{
					&batchv1.PodFailurePolicyOnPodConditionsPatternArgs{
						Type: pulumi.String("DisruptionTarget"), Status: pulumi.String("True"),
					},
				},
			},
		}},
		Template: lastingPodTemplate(podLabels, pod),
	}
}

// writerContainer returns the container that runs the script. It mounts writerVolumes, StoreVolume and HomeVolume.
func (a *ModelStoreArgs) writerContainer(environment ...string) *corev1.ContainerArgs {
	vars := env(
		"HOME", writerHome, // Ollama writes its identity there at start
		"OLLAMA_HOST", fmt.Sprintf("127.0.0.1:%d", portOllama),
		"OLLAMA_MODELS", StorePath,
		"OLLAMA_NOPRUNE", "1", // pruning at start would delete what a running server reads
		"NVIDIA_VISIBLE_DEVICES", "void", // the image requests all GPUs of the node
	)
	mounts := corev1.VolumeMountArray{
		mount(StoreVolume, StorePath, false), mount(HomeVolume, writerHome, false), mount("writer", writerFolder, true),
	}
	if a.Proxy != nil {
		direct := append([]string{"localhost", "127.0.0.1", ".svc", "." + a.ClusterDomain}, a.Proxy.Direct...)
		vars = append(
			vars, env("HTTP_PROXY", a.Proxy.URL, "HTTPS_PROXY", a.Proxy.URL, "NO_PROXY", strings.Join(direct, ","))...,
		)
	}
	if a.CABundle != "" {
		// Go reads it besides the system's bundle, which SSL_CERT_FILE would replace
		vars = append(vars, env("SSL_CERT_DIR", caFolder)...)
		mounts = append(mounts, mount("ca", caFolder, true))
	}
	if a.KeySecret != "" {
		mounts = append(mounts, mount("key", writerHome+"/.ollama", true))
	}
	return &corev1.ContainerArgs{
		Name:            pulumi.String("writer"),
		Image:           pulumi.String(a.Image),
		Command:         pulumi.ToStringArray([]string{"sh", writerFolder + "/" + writerScript, writerFolder + "/plan"}),
		Env:             append(vars, env(environment...)...),
		Resources:       requests("500m", "1Gi"), // a pull streams to disk; 1 GiB leaves room for `ollama create`
		SecurityContext: restrictedContainer(),
		VolumeMounts:    mounts,
	}
}

func (a *ModelStoreArgs) writerVolumes(config pulumi.StringPtrInput) corev1.VolumeArray {
	volumes := corev1.VolumeArray{configVolume("writer", config, 0o444)}
	if a.CABundle != "" {
		volumes = append(volumes, configVolume("ca", pulumi.StringPtr(a.CABundle), 0o444))
	}
	if a.KeySecret != "" {
		volumes = append(volumes, &corev1.VolumeArgs{Name: pulumi.String("key"), Secret: &corev1.SecretVolumeSourceArgs{
			// group-readable: the volume belongs to the pod's group
			SecretName: pulumi.String(a.KeySecret), DefaultMode: pulumi.Int(0o440),
		}})
	}
	return volumes
}

func modelNames(models []Model) []string {
	names := make([]string, len(models))
	for i, m := range models {
		names[i] = m.Name
	}
	return names
}
