package agent

import (
	"context"
	"errors"

	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/klog/v2"
)

// loop calls reconcile whenever an object of the informer has changed. While reconcile fails, loop retries with growing
// delays. Calls never overlap. The clusters are small, so each call looks at all objects: decisions that depend on the
// order of several objects then need no memory.
type loop struct {
	name      string
	queue     workqueue.TypedRateLimitingInterface[string]
	synced    cache.InformerSynced
	reconcile func(context.Context) error
}

// everything is the only key in the queue: all changes during one call lead to one more call.
const everything = "everything"

func newLoop(name string, informer cache.SharedIndexInformer, reconcile func(context.Context) error) (*loop, error) {
	l := &loop{
		name: name,
		queue: workqueue.NewTypedRateLimitingQueueWithConfig(
			workqueue.DefaultTypedControllerRateLimiter[string](),
			workqueue.TypedRateLimitingQueueConfig[string]{Name: name}),
		synced:    informer.HasSynced,
		reconcile: reconcile,
	}
	_, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(any) { l.queue.Add(everything) },
		UpdateFunc: func(any, any) { l.queue.Add(everything) },
		DeleteFunc: func(any) { l.queue.Add(everything) },
	})
	return l, err
}

func (l *loop) run(ctx context.Context) error {
	if !cache.WaitForNamedCacheSyncWithContext(ctx, l.synced) {
		return nil // ctx has ended
	}
	go func() {
		<-ctx.Done()
		l.queue.ShutDown()
	}()
	for {
		key, shutdown := l.queue.Get()
		if shutdown {
			return nil
		}
		if err := l.reconcile(ctx); err != nil {
			if !errors.Is(err, context.Canceled) {
				klog.ErrorS(err, "will retry", "loop", l.name)
			}
			l.queue.AddRateLimited(key)
		} else {
			l.queue.Forget(key)
		}
		l.queue.Done(key)
	}
}
