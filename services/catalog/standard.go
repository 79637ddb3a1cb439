package catalog

import (
	"context"

	"google.golang.org/protobuf/types/known/emptypb"

	catalogv1 "github.com/tollway/tollway/schemas/proto/tollway/catalog/v1"
	"github.com/tollway/tollway/services/catalog/kind"
)

// The standard methods of every kind (AIP-131 to AIP-135): each is one call of
// the code that all kinds share.

// GetLegalEntity returns a legal entity.
func (s *Service) GetLegalEntity(ctx context.Context, r *catalogv1.GetLegalEntityRequest) (*catalogv1.LegalEntity, error) {
	return get[*catalogv1.LegalEntity](ctx, s, kind.LegalEntity, r.GetName())
}

// ListLegalEntities lists legal entities, a page at a time.
func (s *Service) ListLegalEntities(ctx context.Context, r *catalogv1.ListLegalEntitiesRequest) (*catalogv1.ListLegalEntitiesResponse, error) {
	items, next, err := list[*catalogv1.LegalEntity](ctx, s, kind.LegalEntity, "", r)
	if err != nil {
		return nil, err
	}
	return &catalogv1.ListLegalEntitiesResponse{LegalEntities: items, NextPageToken: next}, nil
}

// CreateLegalEntity makes a legal entity.
func (s *Service) CreateLegalEntity(ctx context.Context, r *catalogv1.CreateLegalEntityRequest) (*catalogv1.LegalEntity, error) {
	return create(ctx, s, kind.LegalEntity, "", r.GetLegalEntityId(), r.GetLegalEntity(), r.GetValidateOnly())
}

// UpdateLegalEntity changes a legal entity.
func (s *Service) UpdateLegalEntity(ctx context.Context, r *catalogv1.UpdateLegalEntityRequest) (*catalogv1.LegalEntity, error) {
	return update(ctx, s, kind.LegalEntity, r.GetLegalEntity(), r)
}

// DeleteLegalEntity deletes a legal entity.
func (s *Service) DeleteLegalEntity(ctx context.Context, r *catalogv1.DeleteLegalEntityRequest) (*emptypb.Empty, error) {
	return s.remove(ctx, kind.LegalEntity, r)
}

// GetEnvironment returns an environment.
func (s *Service) GetEnvironment(ctx context.Context, r *catalogv1.GetEnvironmentRequest) (*catalogv1.Environment, error) {
	return get[*catalogv1.Environment](ctx, s, kind.Environment, r.GetName())
}

// ListEnvironments lists environments, a page at a time.
func (s *Service) ListEnvironments(ctx context.Context, r *catalogv1.ListEnvironmentsRequest) (*catalogv1.ListEnvironmentsResponse, error) {
	items, next, err := list[*catalogv1.Environment](ctx, s, kind.Environment, "", r)
	if err != nil {
		return nil, err
	}
	return &catalogv1.ListEnvironmentsResponse{Environments: items, NextPageToken: next}, nil
}

// CreateEnvironment makes an environment.
func (s *Service) CreateEnvironment(ctx context.Context, r *catalogv1.CreateEnvironmentRequest) (*catalogv1.Environment, error) {
	return create(ctx, s, kind.Environment, "", r.GetEnvironmentId(), r.GetEnvironment(), r.GetValidateOnly())
}

// UpdateEnvironment changes an environment.
func (s *Service) UpdateEnvironment(ctx context.Context, r *catalogv1.UpdateEnvironmentRequest) (*catalogv1.Environment, error) {
	return update(ctx, s, kind.Environment, r.GetEnvironment(), r)
}

// DeleteEnvironment deletes an environment.
func (s *Service) DeleteEnvironment(ctx context.Context, r *catalogv1.DeleteEnvironmentRequest) (*emptypb.Empty, error) {
	return s.remove(ctx, kind.Environment, r)
}

// GetMeter returns a meter.
func (s *Service) GetMeter(ctx context.Context, r *catalogv1.GetMeterRequest) (*catalogv1.Meter, error) {
	return get[*catalogv1.Meter](ctx, s, kind.Meter, r.GetName())
}

// ListMeters lists meters, a page at a time.
func (s *Service) ListMeters(ctx context.Context, r *catalogv1.ListMetersRequest) (*catalogv1.ListMetersResponse, error) {
	items, next, err := list[*catalogv1.Meter](ctx, s, kind.Meter, "", r)
	if err != nil {
		return nil, err
	}
	return &catalogv1.ListMetersResponse{Meters: items, NextPageToken: next}, nil
}

// CreateMeter makes a meter.
func (s *Service) CreateMeter(ctx context.Context, r *catalogv1.CreateMeterRequest) (*catalogv1.Meter, error) {
	return create(ctx, s, kind.Meter, "", r.GetMeterId(), r.GetMeter(), r.GetValidateOnly())
}

// UpdateMeter changes a meter.
func (s *Service) UpdateMeter(ctx context.Context, r *catalogv1.UpdateMeterRequest) (*catalogv1.Meter, error) {
	return update(ctx, s, kind.Meter, r.GetMeter(), r)
}

// DeleteMeter deletes a meter.
func (s *Service) DeleteMeter(ctx context.Context, r *catalogv1.DeleteMeterRequest) (*emptypb.Empty, error) {
	return s.remove(ctx, kind.Meter, r)
}

// GetApi returns an API.
func (s *Service) GetApi(ctx context.Context, r *catalogv1.GetApiRequest) (*catalogv1.Api, error) {
	return get[*catalogv1.Api](ctx, s, kind.API, r.GetName())
}

// ListApis lists APIs, a page at a time.
func (s *Service) ListApis(ctx context.Context, r *catalogv1.ListApisRequest) (*catalogv1.ListApisResponse, error) {
	items, next, err := list[*catalogv1.Api](ctx, s, kind.API, "", r)
	if err != nil {
		return nil, err
	}
	return &catalogv1.ListApisResponse{Apis: items, NextPageToken: next}, nil
}

// CreateApi makes an API.
func (s *Service) CreateApi(ctx context.Context, r *catalogv1.CreateApiRequest) (*catalogv1.Api, error) {
	return create(ctx, s, kind.API, "", r.GetApiId(), r.GetApi(), r.GetValidateOnly())
}

// UpdateApi changes an API.
func (s *Service) UpdateApi(ctx context.Context, r *catalogv1.UpdateApiRequest) (*catalogv1.Api, error) {
	return update(ctx, s, kind.API, r.GetApi(), r)
}

// DeleteApi deletes an API.
func (s *Service) DeleteApi(ctx context.Context, r *catalogv1.DeleteApiRequest) (*emptypb.Empty, error) {
	return s.remove(ctx, kind.API, r)
}

// GetOperation returns an operation.
func (s *Service) GetOperation(ctx context.Context, r *catalogv1.GetOperationRequest) (*catalogv1.Operation, error) {
	return get[*catalogv1.Operation](ctx, s, kind.Operation, r.GetName())
}

// ListOperations lists operations, a page at a time.
func (s *Service) ListOperations(ctx context.Context, r *catalogv1.ListOperationsRequest) (*catalogv1.ListOperationsResponse, error) {
	items, next, err := list[*catalogv1.Operation](ctx, s, kind.Operation, r.GetParent(), r)
	if err != nil {
		return nil, err
	}
	return &catalogv1.ListOperationsResponse{Operations: items, NextPageToken: next}, nil
}

// CreateOperation makes an operation.
func (s *Service) CreateOperation(ctx context.Context, r *catalogv1.CreateOperationRequest) (*catalogv1.Operation, error) {
	return create(ctx, s, kind.Operation, r.GetParent(), r.GetOperationId(), r.GetOperation(), r.GetValidateOnly())
}

// UpdateOperation changes an operation.
func (s *Service) UpdateOperation(ctx context.Context, r *catalogv1.UpdateOperationRequest) (*catalogv1.Operation, error) {
	return update(ctx, s, kind.Operation, r.GetOperation(), r)
}

// DeleteOperation deletes an operation.
func (s *Service) DeleteOperation(ctx context.Context, r *catalogv1.DeleteOperationRequest) (*emptypb.Empty, error) {
	return s.remove(ctx, kind.Operation, r)
}

// GetAccount returns an account.
func (s *Service) GetAccount(ctx context.Context, r *catalogv1.GetAccountRequest) (*catalogv1.Account, error) {
	return get[*catalogv1.Account](ctx, s, kind.Account, r.GetName())
}

// ListAccounts lists accounts, a page at a time.
func (s *Service) ListAccounts(ctx context.Context, r *catalogv1.ListAccountsRequest) (*catalogv1.ListAccountsResponse, error) {
	items, next, err := list[*catalogv1.Account](ctx, s, kind.Account, "", r)
	if err != nil {
		return nil, err
	}
	return &catalogv1.ListAccountsResponse{Accounts: items, NextPageToken: next}, nil
}

// CreateAccount makes an account.
func (s *Service) CreateAccount(ctx context.Context, r *catalogv1.CreateAccountRequest) (*catalogv1.Account, error) {
	return create(ctx, s, kind.Account, "", r.GetAccountId(), r.GetAccount(), r.GetValidateOnly())
}

// UpdateAccount changes an account.
func (s *Service) UpdateAccount(ctx context.Context, r *catalogv1.UpdateAccountRequest) (*catalogv1.Account, error) {
	return update(ctx, s, kind.Account, r.GetAccount(), r)
}

// DeleteAccount deletes an account.
func (s *Service) DeleteAccount(ctx context.Context, r *catalogv1.DeleteAccountRequest) (*emptypb.Empty, error) {
	return s.remove(ctx, kind.Account, r)
}

// GetApp returns an app.
func (s *Service) GetApp(ctx context.Context, r *catalogv1.GetAppRequest) (*catalogv1.App, error) {
	return get[*catalogv1.App](ctx, s, kind.App, r.GetName())
}

// ListApps lists apps, a page at a time.
func (s *Service) ListApps(ctx context.Context, r *catalogv1.ListAppsRequest) (*catalogv1.ListAppsResponse, error) {
	items, next, err := list[*catalogv1.App](ctx, s, kind.App, r.GetParent(), r)
	if err != nil {
		return nil, err
	}
	return &catalogv1.ListAppsResponse{Apps: items, NextPageToken: next}, nil
}

// CreateApp makes an app.
func (s *Service) CreateApp(ctx context.Context, r *catalogv1.CreateAppRequest) (*catalogv1.App, error) {
	return create(ctx, s, kind.App, r.GetParent(), r.GetAppId(), r.GetApp(), r.GetValidateOnly())
}

// UpdateApp changes an app.
func (s *Service) UpdateApp(ctx context.Context, r *catalogv1.UpdateAppRequest) (*catalogv1.App, error) {
	return update(ctx, s, kind.App, r.GetApp(), r)
}

// DeleteApp deletes an app.
func (s *Service) DeleteApp(ctx context.Context, r *catalogv1.DeleteAppRequest) (*emptypb.Empty, error) {
	return s.remove(ctx, kind.App, r)
}

// GetCredential returns a credential.
func (s *Service) GetCredential(ctx context.Context, r *catalogv1.GetCredentialRequest) (*catalogv1.Credential, error) {
	return get[*catalogv1.Credential](ctx, s, kind.Credential, r.GetName())
}

// ListCredentials lists credentials, a page at a time.
func (s *Service) ListCredentials(ctx context.Context, r *catalogv1.ListCredentialsRequest) (*catalogv1.ListCredentialsResponse, error) {
	items, next, err := list[*catalogv1.Credential](ctx, s, kind.Credential, r.GetParent(), r)
	if err != nil {
		return nil, err
	}
	return &catalogv1.ListCredentialsResponse{Credentials: items, NextPageToken: next}, nil
}

// CreateCredential makes a credential.
func (s *Service) CreateCredential(ctx context.Context, r *catalogv1.CreateCredentialRequest) (*catalogv1.Credential, error) {
	return create(ctx, s, kind.Credential, r.GetParent(), r.GetCredentialId(), r.GetCredential(), r.GetValidateOnly())
}

// UpdateCredential changes a credential.
func (s *Service) UpdateCredential(ctx context.Context, r *catalogv1.UpdateCredentialRequest) (*catalogv1.Credential, error) {
	return update(ctx, s, kind.Credential, r.GetCredential(), r)
}

// DeleteCredential deletes a credential.
func (s *Service) DeleteCredential(ctx context.Context, r *catalogv1.DeleteCredentialRequest) (*emptypb.Empty, error) {
	return s.remove(ctx, kind.Credential, r)
}

// GetProduct returns a product.
func (s *Service) GetProduct(ctx context.Context, r *catalogv1.GetProductRequest) (*catalogv1.Product, error) {
	return get[*catalogv1.Product](ctx, s, kind.Product, r.GetName())
}

// ListProducts lists products, a page at a time.
func (s *Service) ListProducts(ctx context.Context, r *catalogv1.ListProductsRequest) (*catalogv1.ListProductsResponse, error) {
	items, next, err := list[*catalogv1.Product](ctx, s, kind.Product, "", r)
	if err != nil {
		return nil, err
	}
	return &catalogv1.ListProductsResponse{Products: items, NextPageToken: next}, nil
}

// CreateProduct makes a product.
func (s *Service) CreateProduct(ctx context.Context, r *catalogv1.CreateProductRequest) (*catalogv1.Product, error) {
	return create(ctx, s, kind.Product, "", r.GetProductId(), r.GetProduct(), r.GetValidateOnly())
}

// UpdateProduct changes a product.
func (s *Service) UpdateProduct(ctx context.Context, r *catalogv1.UpdateProductRequest) (*catalogv1.Product, error) {
	return update(ctx, s, kind.Product, r.GetProduct(), r)
}

// DeleteProduct deletes a product.
func (s *Service) DeleteProduct(ctx context.Context, r *catalogv1.DeleteProductRequest) (*emptypb.Empty, error) {
	return s.remove(ctx, kind.Product, r)
}

// GetPlan returns a plan.
func (s *Service) GetPlan(ctx context.Context, r *catalogv1.GetPlanRequest) (*catalogv1.Plan, error) {
	return get[*catalogv1.Plan](ctx, s, kind.Plan, r.GetName())
}

// ListPlans lists plans, a page at a time.
func (s *Service) ListPlans(ctx context.Context, r *catalogv1.ListPlansRequest) (*catalogv1.ListPlansResponse, error) {
	items, next, err := list[*catalogv1.Plan](ctx, s, kind.Plan, r.GetParent(), r)
	if err != nil {
		return nil, err
	}
	return &catalogv1.ListPlansResponse{Plans: items, NextPageToken: next}, nil
}

// CreatePlan makes a plan.
func (s *Service) CreatePlan(ctx context.Context, r *catalogv1.CreatePlanRequest) (*catalogv1.Plan, error) {
	return create(ctx, s, kind.Plan, r.GetParent(), r.GetPlanId(), r.GetPlan(), r.GetValidateOnly())
}

// UpdatePlan changes a plan.
func (s *Service) UpdatePlan(ctx context.Context, r *catalogv1.UpdatePlanRequest) (*catalogv1.Plan, error) {
	return update(ctx, s, kind.Plan, r.GetPlan(), r)
}

// DeletePlan deletes a plan.
func (s *Service) DeletePlan(ctx context.Context, r *catalogv1.DeletePlanRequest) (*emptypb.Empty, error) {
	return s.remove(ctx, kind.Plan, r)
}

// GetPlanVersion returns a version of a plan.
func (s *Service) GetPlanVersion(ctx context.Context, r *catalogv1.GetPlanVersionRequest) (*catalogv1.PlanVersion, error) {
	return get[*catalogv1.PlanVersion](ctx, s, kind.PlanVersion, r.GetName())
}

// ListPlanVersions lists versions of a plan, a page at a time.
func (s *Service) ListPlanVersions(ctx context.Context, r *catalogv1.ListPlanVersionsRequest) (*catalogv1.ListPlanVersionsResponse, error) {
	items, next, err := list[*catalogv1.PlanVersion](ctx, s, kind.PlanVersion, r.GetParent(), r)
	if err != nil {
		return nil, err
	}
	return &catalogv1.ListPlanVersionsResponse{Versions: items, NextPageToken: next}, nil
}

// CreatePlanVersion makes a version of a plan.
func (s *Service) CreatePlanVersion(ctx context.Context, r *catalogv1.CreatePlanVersionRequest) (*catalogv1.PlanVersion, error) {
	return create(ctx, s, kind.PlanVersion, r.GetParent(), r.GetPlanVersionId(), r.GetPlanVersion(), r.GetValidateOnly())
}

// UpdatePlanVersion changes a version of a plan.
func (s *Service) UpdatePlanVersion(ctx context.Context, r *catalogv1.UpdatePlanVersionRequest) (*catalogv1.PlanVersion, error) {
	return update(ctx, s, kind.PlanVersion, r.GetPlanVersion(), r)
}

// DeletePlanVersion deletes a version of a plan.
func (s *Service) DeletePlanVersion(ctx context.Context, r *catalogv1.DeletePlanVersionRequest) (*emptypb.Empty, error) {
	return s.remove(ctx, kind.PlanVersion, r)
}

// GetSubscription returns a subscription.
func (s *Service) GetSubscription(ctx context.Context, r *catalogv1.GetSubscriptionRequest) (*catalogv1.Subscription, error) {
	return get[*catalogv1.Subscription](ctx, s, kind.Subscription, r.GetName())
}

// ListSubscriptions lists subscriptions, a page at a time.
func (s *Service) ListSubscriptions(ctx context.Context, r *catalogv1.ListSubscriptionsRequest) (*catalogv1.ListSubscriptionsResponse, error) {
	items, next, err := list[*catalogv1.Subscription](ctx, s, kind.Subscription, r.GetParent(), r)
	if err != nil {
		return nil, err
	}
	return &catalogv1.ListSubscriptionsResponse{Subscriptions: items, NextPageToken: next}, nil
}

// CreateSubscription makes a subscription.
func (s *Service) CreateSubscription(ctx context.Context, r *catalogv1.CreateSubscriptionRequest) (*catalogv1.Subscription, error) {
	return create(ctx, s, kind.Subscription, r.GetParent(), r.GetSubscriptionId(), r.GetSubscription(), r.GetValidateOnly())
}

// UpdateSubscription changes a subscription.
func (s *Service) UpdateSubscription(ctx context.Context, r *catalogv1.UpdateSubscriptionRequest) (*catalogv1.Subscription, error) {
	return update(ctx, s, kind.Subscription, r.GetSubscription(), r)
}

// DeleteSubscription deletes a subscription.
func (s *Service) DeleteSubscription(ctx context.Context, r *catalogv1.DeleteSubscriptionRequest) (*emptypb.Empty, error) {
	return s.remove(ctx, kind.Subscription, r)
}

// GetToken returns an access token.
func (s *Service) GetToken(ctx context.Context, r *catalogv1.GetTokenRequest) (*catalogv1.Token, error) {
	return get[*catalogv1.Token](ctx, s, kind.Token, r.GetName())
}

// ListTokens lists access tokens, a page at a time.
func (s *Service) ListTokens(ctx context.Context, r *catalogv1.ListTokensRequest) (*catalogv1.ListTokensResponse, error) {
	items, next, err := list[*catalogv1.Token](ctx, s, kind.Token, "", r)
	if err != nil {
		return nil, err
	}
	return &catalogv1.ListTokensResponse{Tokens: items, NextPageToken: next}, nil
}

// CreateToken makes an access token.
func (s *Service) CreateToken(ctx context.Context, r *catalogv1.CreateTokenRequest) (*catalogv1.Token, error) {
	return create(ctx, s, kind.Token, "", r.GetTokenId(), r.GetToken(), r.GetValidateOnly())
}

// UpdateToken changes an access token.
func (s *Service) UpdateToken(ctx context.Context, r *catalogv1.UpdateTokenRequest) (*catalogv1.Token, error) {
	return update(ctx, s, kind.Token, r.GetToken(), r)
}

// DeleteToken deletes an access token.
func (s *Service) DeleteToken(ctx context.Context, r *catalogv1.DeleteTokenRequest) (*emptypb.Empty, error) {
	return s.remove(ctx, kind.Token, r)
}
