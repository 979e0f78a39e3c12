package charts

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"

	"roundtrip/test/support/helm"
)

// refused returns the reasons why Pod Security's level restricted refuses a pod.
func refused(t *testing.T, p pod) (reasons []string) {
	t.Helper()
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks())
	if err != nil {
		t.Fatal(err)
	}
	for _, result := range evaluator.EvaluatePod(api.LevelVersion{Level: api.LevelRestricted, Version: api.LatestVersion()}, &p.meta, &p.spec) {
		if !result.Allowed {
			reasons = append(reasons, result.ForbiddenReason+": "+result.ForbiddenDetail)
		}
	}
	return reasons
}

func TestPodsAreRestrictedAndHaveNoToken(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, _ values, objects []object) {
		pods := podsOf(t, objects)
		if len(pods) < 2 {
			t.Fatalf("%d pods, want at least 2", len(pods))
		}
		for _, p := range pods {
			for _, reason := range refused(t, p) {
				t.Errorf("%s: %s", p.of, reason)
			}
			if token := p.spec.AutomountServiceAccountToken; token == nil || *token {
				t.Errorf("%s has a service account's token", p.of)
			}
			for _, c := range p.spec.Containers {
				if root := c.SecurityContext.ReadOnlyRootFilesystem; root == nil || !*root {
					t.Errorf("%s has a writable root file system", p.of)
				}
				if c.Resources.Requests.Cpu().IsZero() || c.Resources.Requests.Memory().IsZero() {
					t.Errorf("%s has no resource requests", p.of)
				}
			}
		}
	})
	loose := parse(t, template(t, helm.Four, "a", "orders", "{securityContext: {capabilities: null}}"))
	if len(refused(t, podsOf(t, loose)[0])) == 0 {
		t.Error("a pod with capabilities is not refused")
	}
}

func has(selector map[string]string, of map[string]string) bool {
	return len(selector) > 0 && labels.SelectorFromSet(selector).Matches(labels.Set(of))
}

// selected returns the pods that a selector matches.
func selected(pods []pod, selector map[string]string) (names []string) {
	for _, p := range pods {
		if has(selector, p.meta.Labels) {
			names = append(names, p.of)
		}
	}
	return names
}

func TestSelectorsMatchTheirTargets(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, _ values, objects []object) {
		pods := podsOf(t, objects)
		services := all[corev1.Service](t, objects, "Service")
		// one checks that a selector matches the pods of one Deployment only.
		one := func(what, deployment string, selector map[string]string) {
			t.Helper()
			if got := selected(pods, selector); !slices.Equal(got, []string{"Deployment " + deployment}) {
				t.Errorf("%s selects %v", what, got)
			}
		}
		for _, d := range all[appsv1.Deployment](t, objects, "Deployment") {
			one("Deployment "+d.Name, d.Name, d.Spec.Selector.MatchLabels)
			for _, c := range d.Spec.Template.Spec.TopologySpreadConstraints {
				one("the spread of "+d.Name, d.Name, c.LabelSelector.MatchLabels)
			}
		}
		for _, s := range services {
			one("Service "+s.Name, strings.TrimSuffix(s.Name, "-headless"), s.Spec.Selector)
		}
		for _, b := range all[policyv1.PodDisruptionBudget](t, objects, "PodDisruptionBudget") {
			one("PodDisruptionBudget "+b.Name, strings.TrimSuffix(b.Name, "-service"), b.Spec.Selector.MatchLabels)
		}
		for _, a := range all[autoscalingv2.HorizontalPodAutoscaler](t, objects, "HorizontalPodAutoscaler") {
			d := all[appsv1.Deployment](t, objects, "Deployment")
			if a.Spec.ScaleTargetRef.Name != d[0].Name || d[0].Spec.Replicas != nil {
				t.Errorf("%s scales %s, which has replicas: %v", a.Name, a.Spec.ScaleTargetRef.Name, d[0].Spec.Replicas)
			}
		}
		for _, p := range all[networkingv1.NetworkPolicy](t, objects, "NetworkPolicy") {
			for _, pod := range pods {
				if mine := strings.Contains(pod.of+"-", " "+p.Name+"-"); mine != has(p.Spec.PodSelector.MatchLabels, pod.meta.Labels) {
					t.Errorf("NetworkPolicy %s binds %s: %v", p.Name, pod.of, !mine)
				}
			}
		}
		serving := func(service, port string) bool {
			return slices.ContainsFunc(services, func(s corev1.Service) bool {
				return s.Name == service && slices.ContainsFunc(s.Spec.Ports, func(p corev1.ServicePort) bool { return p.Name == port || fmt.Sprint(p.Port) == port })
			})
		}
		for _, i := range all[networkingv1.Ingress](t, objects, "Ingress") {
			for _, r := range i.Spec.Rules {
				if b := r.HTTP.Paths[0].Backend.Service; !serving(b.Name, b.Port.Name) {
					t.Errorf("Ingress %s leads to %s, port %s", i.Name, b.Name, b.Port.Name)
				}
			}
		}
		for _, o := range objects {
			switch spec, _ := o["spec"].(map[string]any); o.kind() {
			case "HTTPRoute":
				b := spec["rules"].([]any)[0].(map[string]any)["backendRefs"].([]any)[0].(map[string]any)
				if !serving(b["name"].(string), fmt.Sprint(b["port"])) {
					t.Errorf("HTTPRoute %s leads to %v", o.name(), b)
				}
			case "ServiceMonitor":
				selector := map[string]string{}
				for k, v := range spec["selector"].(map[string]any)["matchLabels"].(map[string]any) {
					selector[k] = v.(string)
				}
				port := spec["endpoints"].([]any)[0].(map[string]any)["port"].(string)
				scraped := 0
				for _, s := range services {
					if has(selector, s.Labels) && serving(s.Name, port) {
						scraped++
					}
				}
				if scraped != 1 {
					t.Errorf("ServiceMonitor %s scrapes %d Services", o.name(), scraped)
				}
			}
		}
	})
}

func TestPortsProbesAndVolumesExist(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, _ values, objects []object) {
		claims := map[string]bool{"stock": true, "22": true} // existing claims, in the matrix
		for _, c := range all[corev1.PersistentVolumeClaim](t, objects, "PersistentVolumeClaim") {
			claims[c.Name] = true
			if c.Annotations["helm.sh/resource-policy"] != "keep" {
				t.Errorf("%s is deleted with its release", c.Name)
			}
		}
		ports := map[string]map[string]bool{}
		for _, p := range podsOf(t, objects) {
			volumes := map[string]bool{}
			for _, v := range p.spec.Volumes {
				volumes[v.Name] = true
				if c := v.PersistentVolumeClaim; c != nil && !claims[c.ClaimName] {
					t.Errorf("%s mounts the claim %s, which does not exist", p.of, c.ClaimName)
				}
			}
			c := p.spec.Containers[0]
			named := map[string]bool{}
			for _, port := range c.Ports {
				named[port.Name] = true
				if variable := strings.ToUpper(c.Name + "_" + port.Name + "_ADDR"); environment(c)[variable] != fmt.Sprintf(":%d", port.ContainerPort) {
					t.Errorf("%s: port %s is %d, and %s is %q", p.of, port.Name, port.ContainerPort, variable, environment(c)[variable])
				}
			}
			ports[p.of] = named
			mounted := map[string]bool{}
			for _, m := range c.VolumeMounts {
				mounted[m.Name] = true
				if m.SubPath != "" {
					t.Errorf("%s mounts %s as a single file, which Kubernetes never updates", p.of, m.MountPath)
				}
			}
			if !maps.Equal(volumes, mounted) {
				t.Errorf("%s has the volumes %v and mounts %v", p.of, volumes, mounted)
			}
			for variable, value := range environment(c) {
				if strings.HasPrefix(value, "/") && !slices.ContainsFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool { return strings.HasPrefix(value, m.MountPath+"/") }) {
					t.Errorf("%s: %s is %s, but nothing is mounted there", p.of, variable, value)
				}
			}
			if !strings.HasPrefix(p.of, "Deployment ") {
				continue
			}
			for path, probe := range map[string]*corev1.Probe{"/startupz": c.StartupProbe, "/livez": c.LivenessProbe, "/readyz": c.ReadinessProbe} {
				if probe == nil || probe.HTTPGet.Path != path || probe.HTTPGet.Port != intstr.FromString("admin") || !named["admin"] {
					t.Errorf("%s: the probe of %s is %v", p.of, path, probe)
				}
			}
		}
		for _, s := range all[corev1.Service](t, objects, "Service") {
			of := "Deployment " + strings.TrimSuffix(s.Name, "-headless")
			for _, port := range s.Spec.Ports {
				if !ports[of][port.TargetPort.StrVal] || port.AppProtocol == nil {
					t.Errorf("Service %s: the port %s leads to %s of %s, with the protocol %v", s.Name, port.Name, port.TargetPort.StrVal, of, port.AppProtocol)
				}
			}
		}
	})
}

// A pod keeps serving until it gets no more requests. Then it drains. It is not killed
// before that. A rollout removes no pod before its replacement is ready.
func TestPodHasTimeToStop(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, _ values, objects []object) {
		for _, d := range all[appsv1.Deployment](t, objects, "Deployment") {
			c := d.Spec.Template.Spec.Containers[0]
			var drain int64
			if _, err := fmt.Sscanf(environment(c)[strings.ToUpper(c.Name)+"_DRAIN_TIMEOUT"], "%ds", &drain); err != nil {
				t.Fatal(err)
			}
			sleep := c.Lifecycle.PreStop.Sleep
			if grace := *d.Spec.Template.Spec.TerminationGracePeriodSeconds; sleep == nil || sleep.Seconds < 1 || grace <= sleep.Seconds+drain {
				t.Errorf("%s sleeps for %v, drains for %d s and is killed after %d s", d.Name, sleep, drain, grace)
			}
			onSQLite := environment(c)[strings.ToUpper(c.Name)+"_DATABASE"] != ""
			if onSQLite && (d.Spec.Strategy.Type != appsv1.RecreateDeploymentStrategyType || *d.Spec.Replicas != 1) {
				t.Errorf("%s on SQLite has %d replicas and is replaced by %s", d.Name, *d.Spec.Replicas, d.Spec.Strategy.Type)
			}
			if !onSQLite && (d.Spec.Strategy.RollingUpdate == nil || d.Spec.Strategy.RollingUpdate.MaxUnavailable.IntValue() != 0) {
				t.Errorf("%s is replaced by %v", d.Name, d.Spec.Strategy)
			}
		}
	})
}

// A Job's spec is immutable. So a changed spec needs another Job name.
func TestMigrationJobNameChangesWithSpec(t *testing.T) {
	t.Parallel()
	job := func(values string) batchv1.Job {
		jobs := all[batchv1.Job](t, parse(t, template(t, helm.Four, "a", "orders", "database: {kind: postgres}\n"+values)), "Job")
		if len(jobs) != 1 {
			t.Fatalf("%d Jobs, want 1", len(jobs))
		}
		return jobs[0]
	}
	before := job("")
	if before.Annotations["helm.sh/hook"] != "" || !slices.Equal(before.Spec.Template.Spec.Containers[0].Args, []string{"migrate", "up"}) {
		t.Errorf("the Job is %+v", before)
	}
	for values, changes := range map[string]bool{
		"image: {tag: v2}": true, "resources: {limits: {memory: 1Gi}}": true, "podLabels: {a: b}": true, "migration: {backoffLimit: 1}": true,
		"nodeSelector: {a: b}": true, "replicas: 4": false, "labels: {a: b}": false,
	} {
		after := job(values)
		if changed := after.Name != before.Name; changed != changes {
			t.Errorf("with %s the name is %s, before it was %s", values, after.Name, before.Name)
		}
	}
}

// Two releases in a namespace share no name, and no selector matches the other's
// pods.
func TestTwoReleasesInOneNamespace(t *testing.T) {
	t.Parallel()
	const on = "{inventory: {database: {kind: postgres}}, orders: {database: {kind: postgres}}}"
	one, other := parse(t, template(t, helm.Four, "one", "roundtrip", on)), parse(t, template(t, helm.Four, "other", "roundtrip", on))
	names := map[string]bool{}
	for _, o := range one {
		names[o.kind()+" "+o.name()] = true
	}
	for _, o := range other {
		if names[o.kind()+" "+o.name()] {
			t.Errorf("both have %s %s", o.kind(), o.name())
		}
	}
	for _, s := range all[corev1.Service](t, one, "Service") {
		if hit := selected(podsOf(t, other), s.Spec.Selector); len(hit) > 0 {
			t.Errorf("%s of one selects %v of the other", s.Name, hit)
		}
	}
}

// Orders calls the inventory of its release, and the network policies allow it.
func TestOrdersFindsInventory(t *testing.T) {
	t.Parallel()
	for _, wire := range []string{"http", "grpc"} {
		objects := parse(t, template(t, helm.Four, "try", "roundtrip", `
inventory: {grpc: {enabled: `+fmt.Sprint(wire == "grpc")+`}, networkPolicy: {enabled: true}}
orders: {inventory: {wire: `+wire+`}, networkPolicy: {enabled: true}}`))
		var url string
		var inventory, orders metav1.ObjectMeta
		for _, d := range all[appsv1.Deployment](t, objects, "Deployment") {
			if d.Labels["app.kubernetes.io/name"] == "orders" {
				url, orders = environment(d.Spec.Template.Spec.Containers[0])["ORDERS_INVENTORY_URL"], d.Spec.Template.ObjectMeta
			} else {
				inventory = d.Spec.Template.ObjectMeta
			}
		}
		want := map[string]string{"http": "http://try-inventory.shop:8080", "grpc": "dns:///try-inventory-headless.shop:8090"}[wire]
		if url != want {
			t.Errorf("orders calls %s, want %s", url, want)
		}
		port := map[string]int{"http": 8080, "grpc": 8090}[wire]
		for _, p := range all[networkingv1.NetworkPolicy](t, objects, "NetworkPolicy") {
			reached := false
			allows := func(peers []networkingv1.NetworkPolicyPeer, ports []networkingv1.NetworkPolicyPort, who metav1.ObjectMeta) {
				for _, peer := range peers {
					if peer.PodSelector != nil && has(peer.PodSelector.MatchLabels, who.Labels) {
						reached = reached || slices.ContainsFunc(ports, func(p networkingv1.NetworkPolicyPort) bool { return p.Port.IntValue() == port || p.Port.StrVal == wire })
					}
				}
			}
			if p.Labels["app.kubernetes.io/name"] == "orders" {
				for _, r := range p.Spec.Egress {
					allows(r.To, r.Ports, inventory)
				}
			} else {
				for _, r := range p.Spec.Ingress {
					allows(r.From, r.Ports, orders)
				}
			}
			if !reached {
				t.Errorf("%s does not let orders call inventory over %s", p.Name, wire)
			}
		}
	}
}

var notesPattern = regexp.MustCompile(`(?:deployment|service)/([a-z0-9-]+)`)

// The notes of an install name rendered objects.
func TestNotesNameRenderedObjects(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, v values, objects []object) {
		out, err := run(t, helm.Four, v.values, "install", v.release, charts+"/"+v.chart, "--namespace=shop", "--values=-", "--dry-run=client")
		if err != nil {
			t.Fatal(err)
		}
		_, notes, _ := strings.Cut(out, "\nNOTES:\n")
		named := notesPattern.FindAllStringSubmatch(notes, -1)
		if len(named) < 2 {
			t.Errorf("the notes are %q", notes)
		}
		for _, m := range named {
			if !slices.ContainsFunc(objects, func(o object) bool { return o.kind() == "Deployment" && o.name() == m[1] }) {
				t.Errorf("the notes name %s, which is not rendered", m[1])
			}
		}
	})
}

// environment returns the variables of a container.
func environment(c corev1.Container) map[string]string {
	set := map[string]string{}
	for _, e := range c.Env {
		set[e.Name] = e.Value
	}
	return set
}
