package cluster

import (
	"context"
	"fmt"

	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	toolswatch "k8s.io/client-go/tools/watch"
)

// Await watches the object of this resource ("pods"), namespace and name, and gives it once ok is true of it; ok ends the
// watch by an error. An object that is not there yet is waited for.
func Await[T runtime.Object](ctx context.Context, client rest.Interface, resource, namespace, name string, ok func(T) (bool, error)) (T, error) {
	var last T
	list := cache.NewListWatchFromClient(client, resource, namespace, fields.OneTermEqualSelector("metadata.name", name))
	_, err := toolswatch.UntilWithSync(ctx, list, nil, nil, func(e watch.Event) (bool, error) {
		object, is := e.Object.(T)
		if !is || e.Type == watch.Deleted {
			return false, nil
		}
		last = object
		return ok(object)
	})
	if err != nil {
		return last, fmt.Errorf("%s %s: %w", resource, name, err)
	}
	return last, nil
}

// AwaitGone watches an object until it is deleted.
func AwaitGone(ctx context.Context, client rest.Interface, resource, namespace, name string) error {
	list := cache.NewListWatchFromClient(client, resource, namespace, fields.OneTermEqualSelector("metadata.name", name))
	gone := func(store cache.Store) (bool, error) { return len(store.List()) == 0, nil }
	_, err := toolswatch.UntilWithSync(ctx, list, nil, gone, func(e watch.Event) (bool, error) { return e.Type == watch.Deleted, nil })
	if err != nil {
		return fmt.Errorf("wait until %s %s is gone: %w", resource, name, err)
	}
	return nil
}
