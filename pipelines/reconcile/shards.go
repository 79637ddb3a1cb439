package reconcile

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/tollway/tollway/pipelines/load"
)

// onEach asks every shard the same at once. The answers are in their order.
func onEach[T any](ctx context.Context, shards []keeper, ask func(context.Context, keeper) (T, error)) ([]T, error) {
	out, errs := make([]T, len(shards)), make([]error, len(shards))
	var wait sync.WaitGroup
	for i, k := range shards {
		wait.Go(func() {
			if out[i], errs[i] = ask(ctx, k); errs[i] != nil && len(shards) > 1 {
				errs[i] = fmt.Errorf("shard %d: %w", i+1, errs[i])
			}
		})
	}
	wait.Wait()
	return out, errors.Join(errs...)
}

// horizonOf is since when raw keeps every call on all shards.
func horizonOf(ctx context.Context, shards []keeper) (time.Time, error) {
	horizons, err := onEach(ctx, shards, func(ctx context.Context, k keeper) (time.Time, error) { return load.Horizon(ctx, k.db) })
	if err != nil {
		return time.Time{}, err
	}
	return slices.MaxFunc(horizons, time.Time.Compare), nil
}
